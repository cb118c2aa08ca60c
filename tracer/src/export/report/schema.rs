//! The JSON Schema of the JSON report (`schema report`).

use serde_json::{Map, Value, json};

use super::json::{DOCUMENT_VERSION, LIST_MAX};
use crate::event::{Kind, Operation};
use crate::verdict::{RuleId, Verdict, WindowKind};

/// The schema (draft 2020-12) that the document of `check --json` satisfies; a test holds them together.
#[must_use]
pub fn json_schema() -> Value {
    let mut document = object(&document());
    // Absent where the trace was judged live.
    document["properties"]["recording"] = object(&recording());
    document["$schema"] = json!("https://json-schema.org/draft/2020-12/schema");
    document["title"] = json!("kvmdirty-trace report");
    document["description"] = json!(format!(
        "The document of `kvmdirty-trace check --json`, version {DOCUMENT_VERSION}. Times are nanoseconds, \
         `*_ns` alone readings of CLOCK_MONOTONIC; addresses and gfns are hexadecimal text."
    ));
    document
}

type Fields = Vec<(&'static str, Value)>;

fn self_check() -> Fields {
    vec![
        ("operation", one_of(&Operation::ALL.iter().map(|op| op.name()).collect::<Vec<_>>())),
        ("inside", text()),
        ("exits", number()),
        ("hits", number()),
        ("state", one_of(&["fires", "silent", "not exercised"])),
    ]
}

fn document() -> Fields {
    vec![
        ("version", json!({ "const": DOCUMENT_VERSION })),
        ("tool", text()),
        ("outcome", one_of(&["clean", "hazard", "failed", "inconclusive"])),
        ("exit_status", json!({ "type": "integer", "minimum": 0, "maximum": 3 })),
        ("kernel", text()),
        ("plan", text()),
        ("epsilon_ns", number()),
        ("is_final", boolean()),
        ("begin_ns", or_null(number())),
        ("end_ns", number()),
        ("events", number()),
        ("events_by_kind", map(&Kind::ALL.iter().map(|kind| kind.name()).collect::<Vec<_>>())),
        ("dropped_events", number()),
        ("gaps_total", number()),
        ("gaps", first_of(object(&gap()), "gaps_total")),
        ("anomalies", number()),
        ("integrity_violations", number()),
        ("vms", list(object(&vm()))),
        ("harvests", number()),
        ("harvests_kept", number()),
        ("harvests_complete", of_the_kept()),
        ("harvest_list", last_of(object(&harvest()), "harvests")),
        ("rules_off", list(object(&rule_off()))),
        (
            "verdicts",
            object(&["lost", "at_risk", "exposed", "safe", "unknown"].map(count).to_vec()),
        ),
        ("unknown_causes", json!({ "type": "object", "additionalProperties": number() })),
        ("hazards", first_of(object(&finding()), "hazards_total")),
        ("hazards_total", number()),
        ("exposed", first_of(object(&finding()), "exposed_total")),
        ("exposed_total", number()),
        ("findings_total", number()),
        ("findings_unkept", number()),
        ("windows", object(&WindowKind::ALL.map(|kind| (kind.name(), object(&window()))).to_vec())),
        ("benign", json!({ "type": "object", "additionalProperties": number() })),
        ("self_check", list(object(&self_check()))),
    ]
}

fn recording() -> Fields {
    let damage = [
        ("offset", number()),
        ("bytes", number()),
        ("what", text()),
        ("records", or_null(number())),
    ];
    vec![
        ("file", text()),
        ("origin", one_of(&["live", "demo", "simulator", "import", "litmus"])),
        ("tool", text()),
        ("host", text()),
        ("vmm", text()),
        ("started_s", number()),
        ("cut_at", or_null(number())),
        ("damages", list(object(&damage.to_vec()))),
        ("damages_total", number()),
    ]
}

fn gap() -> Fields {
    vec![
        ("lane", or_null(text())),
        ("hook", or_null(text())),
        ("cause", text()),
        ("from_ns", number()),
        ("to_ns", number()),
        ("dropped", number()),
    ]
}

fn vm() -> Fields {
    let slot = [
        ("slot", text()),
        ("base", hexadecimal()),
        ("npages", number()),
        ("is_logging", boolean()),
        ("harvests", number()),
        ("pages_harvested", number()),
    ];
    vec![
        ("vm", hexadecimal()),
        ("tgid", number()),
        ("manual_protect", number()),
        ("ring_bytes", number()),
        ("is_gone", boolean()),
        ("slots", list(object(&slot.to_vec()))),
    ]
}

fn harvest() -> Fields {
    vec![
        ("id", number()),
        ("vm", hexadecimal()),
        ("slot", text()),
        ("op", one_of(&["get", "clear", "reset"])),
        ("iteration", number()),
        ("begin_ns", number()),
        ("ioctl_ns", number()),
        ("pages", number()),
        ("words", number()),
        ("protect_ns", number()),
        ("flush_ns", or_null(number())),
        ("flush_counter_moved", boolean()),
        ("is_complete", boolean()),
        ("worst", or_null(verdict())),
    ]
}

fn rule_off() -> Fields {
    let operations: Vec<_> = Operation::ALL.iter().map(|operation| operation.name()).collect();
    vec![
        ("rule", rule()),
        ("operation", one_of(&operations)),
        ("evidence", one_of(&["none", "nearest", "direct"])),
    ]
}

fn finding() -> Fields {
    let step = [
        ("from_ns", number()),
        ("to_ns", number()),
        ("tid", number()),
        ("cpu", number()),
        ("kind", text()),
        ("note", text()),
    ];
    let edge = [("from", number()), ("to", number()), ("kind", text())];
    let instant = [
        ("step", number()),
        ("what", text()),
        ("from_ns", number()),
        ("to_ns", number()),
        ("from_by", text()),
        ("to_by", text()),
    ];
    let witness = [
        ("steps", list(object(&step.to_vec()))),
        ("edges", list(object(&edge.to_vec()))),
        ("losing", or_null(number())),
        ("instants", list(object(&instant.to_vec()))),
        ("missing", or_null(text())),
    ];
    vec![
        ("verdict", verdict()),
        ("rule", rule()),
        ("vm", hexadecimal()),
        ("slot", text()),
        ("gfn", or_null(hexadecimal())),
        ("first_ns", number()),
        ("last_ns", number()),
        ("count", number()),
        ("sentence", text()),
        ("known", or_null(text())),
        ("witness", object(&witness.to_vec())),
    ]
}

fn window() -> Fields {
    vec![
        ("closed", number()),
        ("open", number()),
        ("with_harvest", number()),
        ("p50_ns", or_null(number())),
        ("p99_ns", or_null(number())),
        ("longest_ns", or_null(number())),
    ]
}

/// An object with exactly these keys.
fn object(fields: &Fields) -> Value {
    let names: Vec<_> = fields.iter().map(|(name, _)| *name).collect();
    let properties: Map<String, Value> =
        fields.iter().map(|(name, schema)| ((*name).to_owned(), schema.clone())).collect();
    json!({
        "type": "object",
        "properties": properties,
        "required": names,
        "additionalProperties": false,
    })
}

/// Any of these keys, each a count.
fn map(names: &[&str]) -> Value {
    let properties: Map<String, Value> =
        names.iter().map(|name| ((*name).to_owned(), number())).collect();
    json!({ "type": "object", "properties": properties, "additionalProperties": false })
}

fn count(name: &'static str) -> (&'static str, Value) {
    (name, number())
}

fn list(items: Value) -> Value {
    json!({ "type": "array", "items": items })
}

/// A list that is cut, and the key that counts all.
fn cut(items: Value, which: &str, total: &str) -> Value {
    let mut list = list(items);
    list["description"] = json!(format!("The {which} {LIST_MAX}; `{total}` counts all."));
    list
}

fn first_of(items: Value, total: &str) -> Value {
    cut(items, "first", total)
}

fn last_of(items: Value, total: &str) -> Value {
    cut(items, "last", total)
}

fn of_the_kept() -> Value {
    let what = "Seen from begin to end, of the newest `harvests_kept`.";
    json!({ "type": "integer", "minimum": 0, "description": what })
}

fn number() -> Value {
    json!({ "type": "integer", "minimum": 0 })
}

fn text() -> Value {
    json!({ "type": "string" })
}

fn boolean() -> Value {
    json!({ "type": "boolean" })
}

fn hexadecimal() -> Value {
    json!({ "type": "string", "pattern": "^0x[0-9a-f]+$" })
}

fn one_of(words: &[&str]) -> Value {
    json!({ "enum": words })
}

fn rule() -> Value {
    one_of(&RuleId::ALL.map(RuleId::name))
}

fn verdict() -> Value {
    one_of(&Verdict::ALL.map(Verdict::name))
}

fn or_null(schema: Value) -> Value {
    json!({ "anyOf": [schema, { "type": "null" }] })
}
