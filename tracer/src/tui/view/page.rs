//! The journey of one page: every event of a gfn, in order.

use ratatui::text::{Line, Span};

use crate::event::{Event, Gfn, VmId};
use crate::tui::describe;
use crate::tui::figures::{clock, count, cut, duration, wrap};
use crate::tui::model::Model;
use crate::tui::view::findings;
use crate::tui::view::frame::{heading, plural};

/// Columns before what an event says.
const MARGIN: usize = 46;

/// The page.
#[must_use]
pub fn lines(model: &Model, vm: VmId, gfn: Gfn, width: usize) -> Vec<Line<'static>> {
    let palette = &model.palette;
    let mut lines = vec![heading(model, &format!("page {gfn} of vm {vm}"), width)];
    let findings = &model.shown.summary.findings;
    for finding in findings.iter().filter(|one| one.vm == vm && one.gfn == Some(gfn)) {
        let text = cut(&findings::plain(finding), width, palette.glyphs);
        lines.push(Line::styled(text, palette.verdict(finding.verdict)));
    }
    lines.extend(event_lines(model, vm, gfn, |_| true, width));
    lines.push(Line::default());
    let keys = "h l previous and next page   : another page   G end   Esc back";
    lines.push(Line::styled(keys, palette.quiet()));
    lines
}

/// The events of a page that `wanted` picks, or why there are none.
#[must_use]
pub fn event_lines(
    model: &Model,
    vm: VmId,
    gfn: Gfn,
    wanted: impl Fn(&Event) -> bool,
    width: usize,
) -> Vec<Line<'static>> {
    let palette = &model.palette;
    let begin = model.begin();
    let journey = model.shown.journey.as_deref();
    let Some(journey) = journey.filter(|journey| journey.vm == vm && journey.gfn == gfn) else {
        return vec![Line::styled("  looking for its events", palette.quiet())];
    };
    let mut lines = Vec::new();
    if begin < journey.since {
        let since = clock(journey.since, begin);
        let text = format!("  followed since {since}; what was before is not kept live");
        lines.push(Line::styled(text, palette.quiet()));
    }
    let kept = journey.events.len() as u64;
    if kept < journey.total {
        let text = format!("  the newest {} of {}", count(kept), plural(journey.total, "event"));
        lines.push(Line::styled(text, palette.warning()));
    }
    lines.push(Line::styled(
        format!("  {:<12}{:>9}  {:<20} event", "from", "within", "thread"),
        palette.quiet(),
    ));
    let events: Vec<_> = journey.events.iter().filter(|event| wanted(event)).collect();
    if events.is_empty() {
        lines.push(Line::styled("  none", palette.quiet()));
    }
    for event in events {
        let from = clock(event.span.lo, begin);
        let within = duration(event.span.len_ns());
        let thread = cut(&describe::thread(model, event), 20, palette.glyphs);
        let mut parts = wrap(&describe::event(event), width.saturating_sub(MARGIN)).into_iter();
        lines.push(Line::from(vec![
            Span::styled(format!("  {from:<12}{within:>9}  "), palette.quiet()),
            Span::raw(format!("{thread:<20} ")),
            Span::raw(parts.next().unwrap_or_default()),
        ]));
        lines.extend(parts.map(|part| Line::raw(format!("{:MARGIN$}{part}", ""))));
    }
    lines
}

#[cfg(test)]
mod tests {
    use insta::assert_snapshot;

    use std::sync::Arc;

    use crate::event::Gfn;
    use crate::feed::{Journey, Snapshot};
    use crate::tui::msg::{Msg, Wish};
    use crate::tui::sample::{VM, after, busy, events, screen, us};
    use crate::tui::update::update;

    #[test]
    fn a_page_that_was_just_asked_for_is_looked_for() {
        let model = after(busy(), &[Wish::Enter, Wish::Enter]);
        let text = screen(&model, 80, 24);
        assert_snapshot!(text.lines().skip(3).take(4).collect::<Vec<_>>().join("\n"), @r#"
        ─ page 0x1000 of vm 0xffff888100000000 ─────────────────────────────────────────
        lost K05 slot 0:0 gfn 0x1000 x3: harvest 6 took the bit and returned without a …
          looking for its events
        "#);
    }

    #[test]
    fn the_journey_lists_every_event_of_the_page() {
        let mut model = after(busy(), &[Wish::Enter, Wish::Enter]);
        let journey = Journey {
            vm: VM,
            gfn: Gfn(0x1000),
            since: us(1_000_000),
            events: events().into(),
            total: 9_000,
        };
        let journey = Some(Arc::new(journey));
        let snapshot = Snapshot { journey, ..(*model.shown).clone() };
        update(&mut model, Msg::Snapshot(Arc::new(snapshot)));
        assert_snapshot!(screen(&model, 120, 24), @r#"
        kvmdirty-trace  1 overview  2 memory  3 coverage  4 mmu_lock  5 vms                                           live 2.5 s
        qemu-system-x86 pid 4711 · kernel 6.12.95 · tdp · manual-protect · 2 vcpus · 2 slots, 1 logging for 2.4 s
        ─ page 0x1000 of vm 0xffff888100000000 ─────────────────────────────────────────────────────────────────────────────────
        lost K05 slot 0:0 gfn 0x1000 x3: harvest 6 took the bit and returned without a flush; vcpu 1 wrote through its stale TL…
          followed since 1.000000; what was before is not kept live
          the newest 4 of 9,000 events
          from           within  thread               event
          1.199200       3.0 us  tid 4711             take bits 0x1 from 0x1000, protected 0x1
          1.199600       2.0 us  vcpu 1 (tid 4713)    mark 0x1000 dirty without mmu_lock, bit set at return
          1.199598       5.0 us  vcpu 1 (tid 4713)    fast fault on 0x1000 set W again, was 0x80000801 RO
          1.199100       900 us  tid 4711             GET_DIRTY_LOG 0:0 returns 0

        h l previous and next page   : another page   G end   Esc back









        dropped 0 · gaps 0 · anomalies 0 · integrity 0 · cpu: probe 3.1% tool 1.2% max 25%
        Esc back  Left previous  Right next  : page  G end  y copy  ? help
        "#);
    }
}
