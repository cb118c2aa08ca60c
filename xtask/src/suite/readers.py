"""Reads what the exports wrote with other people's libraries; ends with 1 and one sentence if one cannot.

The folder given holds fleet/*/*.parquet, lab.pftrace, host.pftrace, lines.jsonl, report.json, lines.schema.json,
report.schema.json.
"""

import collections
import json
import pathlib
import re
import sys

import datafusion
import duckdb
import jsonschema
import polars
from google.protobuf.unknown_fields import UnknownFieldSet
from perfetto.protos.perfetto.trace import perfetto_trace_pb2 as perfetto

folder, analysis = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
TABLES = ["events", "windows", "harvests", "verdicts", "gaps", "slots"]
# No window of a healthy recording need be longer than a millisecond.
MAY_BE_EMPTY = {"2. Which windows were open longer than 1 ms?"}


def check(holds, what):
    if not holds:
        sys.exit(f"readers: {what}")


def tables():
    """The three engines count the same rows, and find the columns that lie before all others."""
    for table in TABLES:
        pattern = f"{folder}/fleet/*/{table}.parquet"
        seen = duckdb.sql(f"SELECT count(*) FROM read_parquet('{pattern}')").fetchall()[0][0]
        frame = polars.read_parquet(pattern)
        check(frame.columns[:2] == ["host", "kernel"], f"{table} begins with {frame.columns[:2]}")
        context = datafusion.SessionContext()
        for n, path in enumerate(sorted(folder.glob(f"fleet/*/{table}.parquet"))):
            context.register_parquet(f"t{n}", str(path))
        parts = [
            context.sql(f"SELECT count(*) FROM t{n}").to_pydict().popitem()[1][0]
            for n in range(len(list(folder.glob("fleet/*"))))
        ]
        check(
            seen == frame.height == sum(parts),
            f"{table}: DuckDB counts {seen}, Polars {frame.height}, DataFusion {sum(parts)}",
        )
        print(f"parquet {table}: {seen} rows")
    report = json.loads((folder / "report.json").read_text())
    events = duckdb.sql(
        f"SELECT count(*) FROM read_parquet('{folder}/fleet/lab/events.parquet')"
    ).fetchall()[0][0]
    check(events == report["events"], f"{events} rows of {report['events']} events")


def queries():
    """Every query of the page, as it stands."""
    base = duckdb.connect()
    base.execute(f"SET file_search_path = '{folder}'")
    title, asked = "", 0
    for part in re.split(r"^## ", analysis.read_text(), flags=re.M)[1:]:
        title = part.splitlines()[0]
        for query in re.findall(r"```sql\n(.*?)```", part, flags=re.S):
            try:
                rows = base.execute(query).fetchall() if title != "Views" else base.execute(query) and []
            except duckdb.Error as error:
                sys.exit(f"readers: `{title}` of {analysis.name}: {error}")
            if title != "Views":
                asked += 1
                print(f"sql {title} {len(rows)} rows, first {rows[:1]}")
                check(rows or title in MAY_BE_EMPTY, f"`{title}` has no rows")
    check(asked == 10, f"{asked} queries in {analysis.name}, ten are promised")


def trace(name):
    """Perfetto's own message definitions: tracks, slices that close, flows that join, losses."""
    data = (folder / f"{name}.pftrace").read_bytes()
    whole = perfetto.Trace.FromString(data)
    tracks, open_slices, flows = {}, collections.Counter(), collections.Counter()
    kinds, lost, ended = collections.Counter(), [], 0
    Type = perfetto.TrackEvent
    events = []
    for packet in whole.packet:
        unknown = UnknownFieldSet(packet)
        check(not len(unknown), f"field {len(unknown) and unknown[0].field_number} is not Perfetto's")
        if packet.previous_packet_dropped:
            lost.append((packet.timestamp, packet.track_event.name))
            check(packet.trusted_packet_sequence_id == 2, "a loss that makes events unreadable")
        if packet.HasField("track_descriptor"):
            tracks[packet.track_descriptor.uuid] = packet.track_descriptor
        if packet.HasField("track_event"):
            check(packet.timestamp, "an event without time")
            check(packet.track_event.track_uuid in tracks, "an event on a track not described before")
            events.append((packet.timestamp, packet.track_event))
    # As the trace processor does: by time, equal times in the order of the file.
    events.sort(key=lambda event: event[0])
    for _, event in events:
        kinds[event.type] += 1
        if event.type == Type.TYPE_SLICE_BEGIN:
            open_slices[event.track_uuid] += 1
        elif event.type == Type.TYPE_SLICE_END:
            open_slices[event.track_uuid] -= 1
            check(open_slices[event.track_uuid] >= 0, "a slice ends that never began")
        elif event.type == Type.TYPE_COUNTER:
            check(tracks[event.track_uuid].HasField("counter"), "a count on a track of no counter")
        for flow in event.flow_ids:
            flows[flow] += 1
        for flow in event.terminating_flow_ids:
            check(flows[flow], "a flow ends that never began")
            ended += 1
    if name == "lab":
        for kind in (Type.TYPE_SLICE_BEGIN, Type.TYPE_INSTANT, Type.TYPE_COUNTER):
            check(kinds[kind], f"no event of type {kind}")
        check(any(track.HasField("thread") for track in tracks.values()), "no thread")
        check(any("window" in track.name for track in tracks.values()), "no track of windows")
        check(ended, "no flow")
    # Every gap is a loss of Perfetto's own kind, where it began, by its cause and number.
    gaps = duckdb.sql(
        f"SELECT from_ns::BIGINT, cause, dropped FROM read_parquet('{folder}/fleet/{name}/gaps.parquet')"
    ).fetchall()
    told = sorted((at, f"{cause}: {dropped} dropped") for at, cause, dropped in gaps)
    check(sorted(lost) == told, f"{name}: losses {sorted(lost)}, gaps {told}")
    check(gaps or name != "host", "the recording with gaps has none")
    # Any prefix that ends between packets is a trace.
    end, count, step = 0, 0, max(1, len(whole.packet) // 50)
    for packet in whole.packet[: 50 * step]:
        if count % step == 0:
            check(len(perfetto.Trace.FromString(data[:end]).packet) == count, f"prefix of {end} bytes")
        size, shift, end = 0, 0, end + 1
        while True:
            byte, end = data[end], end + 1
            size, shift = size | (byte & 0x7F) << shift, shift + 7
            if byte < 0x80:
                break
        end, count = end + size, count + 1
    print(
        f"perfetto {name}: {len(whole.packet)} packets, {len(tracks)} tracks, "
        f"{kinds[Type.TYPE_SLICE_BEGIN]} slices, {ended} flows ended, {len(lost)} losses"
    )


def documents():
    """A validator of JSON Schema that is not ours."""
    for name, every in (("report", 1), ("lines", 29)):
        schema = json.loads((folder / f"{name}.schema.json").read_text())
        validator = jsonschema.Draft202012Validator(schema)
        validator.check_schema(schema)
        text = (folder / ("report.json" if name == "report" else "lines.jsonl")).read_text()
        values = [text] if name == "report" else text.splitlines()
        for line in values[::every]:
            error = next(validator.iter_errors(json.loads(line)), None)
            check(error is None, f"{name}: {error and error.message}")
        print(f"json schema {name}: {len(values[::every])} documents")


tables()
queries()
trace("lab")
trace("host")
documents()
