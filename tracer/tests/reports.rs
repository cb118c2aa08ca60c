//! All forms of one report, made from a race that a person wrote.

use kvmdirty_trace::event::{Kind, Setup, decode};
use kvmdirty_trace::export::report::{DamageRow, Judged, Provenance, html, markdown, text};
use kvmdirty_trace::pipeline::Pipeline;
use kvmdirty_trace::summary::Summary;
use kvmdirty_trace::trace::litmus::Litmus;
use kvmdirty_trace::verdict::{Edge, EdgeKind, Finding, Step, Verdict, Witness};

/// A harvest that takes a page's bit and leaves its SPTE writable.
const RACE: &str = include_str!("litmus/harvest-leaves-writable.litmus");

/// The race judged, with a witness made by hand, so that this test is of reports and not of witnesses.
fn judged() -> (Summary, Setup) {
    let Litmus { setup, batch, .. } = Litmus::read(RACE).unwrap();
    let mut pipeline = Pipeline::new(setup);
    pipeline.push(&batch);
    pipeline.finish();
    let mut summary = pipeline.summary().clone();
    let mut events: Vec<_> = batch.records.iter().map(|raw| decode(raw).unwrap()).collect();
    events.sort_by_key(|event| event.span.hi);
    let of = |kind: Kind| *events.iter().find(|event| event.kind.kind() == kind).unwrap();
    let step = |kind, note| Step { event: of(kind), note };
    let edge = |from, to, kind| Edge { from, to, kind };
    let mut finding = Finding::clone(&summary.findings[0]);
    finding.witness = Witness {
        steps: vec![
            step(Kind::SpteChange, "made the page writable"),
            step(Kind::HarvestWord, "takes the bit, clears no W"),
            step(Kind::IoctlEnd, "returns"),
        ],
        edges: vec![edge(0, 1, EdgeKind::RealTime), edge(1, 2, EdgeKind::ProgramOrder)],
        losing: Some(2),
        ..Witness::default()
    };
    summary.findings = vec![finding.into()];
    assert_eq!(summary.harvests[0].worst, Some(Verdict::Lost), "the engine tells it");
    (summary, pipeline.setup().clone())
}

fn provenance() -> Provenance {
    Provenance {
        file: String::from("<vm>.kdt"),
        origin: "live",
        tool: String::from("0.1.0"),
        host: String::from("node-7"),
        vmm: String::from("qemu -name \"a&b\""),
        started_s: 951_782_400,
        cut_at: Some(4_711),
        damages: vec![DamageRow {
            offset: 99,
            bytes: 12,
            what: "no frame begins here",
            records: None,
        }],
        damages_total: 3,
    }
}

#[test]
fn a_person_reads_the_verdict_first_and_the_race_drawn() {
    let (summary, setup) = judged();
    let file = provenance();
    let judged = Judged { summary: &summary, setup: &setup, provenance: Some(&file) };
    insta::assert_snapshot!(text::report(&judged), @r#"
    hazard: pages were lost or at risk, see below

    verdicts   lost 1  at-risk 0  exposed 0  unknown 0  safe 0
    covered    0.000 s, 9 events, 1 harvests (1 of them seen completely)
    dropped    0 records in 0 gaps
    traced     kernel 0.0.0-litmus, kprobe plan, epsilon 0 ns
    recording  <vm>.kdt: live on node-7, 2000-02-29 00:00:00 UTC, by kvmdirty-trace 0.1.0
    vmm        qemu -name "a&b"
    rules on   K01 K02 K03 K04 K05 K06 K07 K08 K09 K10 K11 K12 K13 K14 K15

    HAZARDS

    lost K04 harvested-not-protected: gfn 0x7, slot 0:0, vm 0x1, once, first at 0.000000 s
      gfn 0x7 was taken while its SPTE was writable, and nothing write-protected it before the ioctl returned

      step  within, us           tid 2                                       | tid 1
       1    0.000 .. 0.020       SPTE of 0x7 level 1: 0xc00 RO to 0xc02 W:   |
                                 made the page writable                      |
       2    0.050 .. 0.050                                                   | take bits 0x80 from 0x0, protected 0x0:
                                                                             | takes the bit, clears no W
       3 X  0.040 .. 0.070                                                   | GET_DIRTY_LOG 0:0 returns 0: returns
      order known: 1 before 2 (real-time), 2 before 3 (program-order)
      X from step 3 on a write to the page is lost

    WINDOWS
      kind        closed  left open  with a harvest inside  p50 us <=  p99 us <=  longest us
      slow-fault       1          0                      0        0.0        0.0         0.0

    HARVESTS
      ioctl  harvests  pages each  p50 us  p90 us  p99 us  longest us
      get           1         1.0     0.0     0.0     0.0         0.0
      the last 1 of 1:
      id  slot  ioctl  pages  ioctl us  words us  flush us  seen        worst
       1  0:0   get        1       0.0       0.0       0.0  completely  lost

    MEMORY
      vm   process  mode    slot  first gfn  pages  logging  harvests  pages taken
      0x1        0  bitmap  0:0         0x0     64  on              1            1

    DROPPED RECORDS AND OTHER DOUBTS
    recording  byte 99: no frame begins here (12 bytes skipped)
    recording  2 damaged places more
    recording  ends at byte 4711 without an index: its writer was killed, met an error or still writes; what came
               after is not in it
    benign     1 mark-before-store-under-lock
    "#);
}

#[test]
fn markdown_has_the_same_blocks() {
    let (summary, setup) = judged();
    insta::assert_snapshot!(markdown::report(&Judged::live(&summary, &setup)), @r#"
    # kvmdirty-trace: hazard

    pages were lost or at risk, see below

    - **verdicts**: lost 1  at-risk 0  exposed 0  unknown 0  safe 0
    - **covered**: 0.000 s, 9 events, 1 harvests (1 of them seen completely)
    - **dropped**: 0 records in 0 gaps
    - **traced**: kernel 0.0.0-litmus, kprobe plan, epsilon 0 ns
    - **rules on**: K01 K02 K03 K04 K05 K06 K07 K08 K09 K10 K11 K12 K13 K14 K15

    ## Hazards

    ### lost K04 harvested-not-protected: gfn 0x7, slot 0:0, vm 0x1, once, first at 0.000000 s

    gfn 0x7 was taken while its SPTE was writable, and nothing write-protected it before the ioctl returned

    ```text
    step  within, us           tid 2                                       | tid 1
     1    0.000 .. 0.020       SPTE of 0x7 level 1: 0xc00 RO to 0xc02 W:   |
                               made the page writable                      |
     2    0.050 .. 0.050                                                   | take bits 0x80 from 0x0, protected 0x0:
                                                                           | takes the bit, clears no W
     3 X  0.040 .. 0.070                                                   | GET_DIRTY_LOG 0:0 returns 0: returns
    order known: 1 before 2 (real-time), 2 before 3 (program-order)
    X from step 3 on a write to the page is lost
    ```

    ## Windows

    | kind | closed | left open | with a harvest inside | p50 us \<= | p99 us \<= | longest us |
    | --- | ---: | ---: | ---: | ---: | ---: | ---: |
    | slow-fault | 1 | 0 | 0 | 0.0 | 0.0 | 0.0 |

    ## Harvests

    | ioctl | harvests | pages each | p50 us | p90 us | p99 us | longest us |
    | --- | ---: | ---: | ---: | ---: | ---: | ---: |
    | get | 1 | 1.0 | 0.0 | 0.0 | 0.0 | 0.0 |

    the last 1 of 1:

    | id | slot | ioctl | pages | ioctl us | words us | flush us | seen | worst |
    | ---: | --- | --- | ---: | ---: | ---: | ---: | --- | --- |
    | 1 | 0:0 | get | 1 | 0.0 | 0.0 | 0.0 | completely | lost |

    ## Memory

    | vm | process | mode | slot | first gfn | pages | logging | harvests | pages taken |
    | --- | ---: | --- | --- | ---: | ---: | --- | ---: | ---: |
    | 0x1 | 0 | bitmap | 0:0 | 0x0 | 64 | on | 1 | 1 |

    ## Dropped records and other doubts

    - **benign**: 1 mark-before-store-under-lock
    "#);
}

#[test]
fn the_page_needs_nothing_else_and_escapes_what_others_wrote() {
    let (summary, setup) = judged();
    let file = provenance();
    let page = html::report(&Judged { summary: &summary, setup: &setup, provenance: Some(&file) });
    assert!(page.contains("&lt;vm&gt;.kdt") && page.contains("a&amp;b"));
    for outside in ["<script", "src=", "href=", "@import", "url(", "http"] {
        assert!(!page.contains(outside), "{outside}");
    }
    assert_eq!(page.matches("<svg").count(), page.matches("</svg>").count());
    // Pages and cost of the harvest, its window if any, and the slot's heat map.
    assert!(3 <= page.matches("<svg").count(), "{}", page.matches("<svg").count());
    assert!(page.contains("class=\"mark\""), "the lost page is marked in the heat map");
    for tag in ["figure", "table", "pre", "dl", "h2", "h3"] {
        let opened = page.matches(&format!("<{tag}>")).count();
        assert_eq!(opened, page.matches(&format!("</{tag}>")).count(), "{tag}");
    }
}
