//! The VMs of the trace; Enter looks at one of them.

use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::text::Line;
use ratatui::widgets::Paragraph;

use crate::tui::figures::{cut, short};
use crate::tui::model::Model;
use crate::tui::scroll::first_row;
use crate::tui::view::frame::{heading, log_mode};

/// Draws the list.
pub fn draw(frame: &mut Frame<'_>, model: &Model, area: Rect) {
    let palette = &model.palette;
    let width = usize::from(area.width);
    let summary = &model.shown.summary;
    let title = match model.vm {
        Some(vm) => format!("VMs: looking at {vm} (Esc on the overview: all)"),
        None => String::from("VMs: looking at all (Enter looks at one)"),
    };
    let mut lines = vec![
        heading(model, &title, width),
        Line::styled(
            format!(
                "  {:<20}{:>8}  {:<26}{:>6}{:>6}{:>9}",
                "struct kvm", "process", "log mode", "vcpus", "slots", "harvests"
            ),
            palette.quiet(),
        ),
    ];
    if summary.vms.is_empty() {
        lines.push(Line::styled("  none has been seen yet", palette.quiet()));
    }
    let height = usize::from(area.height).saturating_sub(2);
    let first = first_row(model.vms_selected, summary.vms.len(), height);
    for (index, vm) in summary.vms.iter().enumerate().skip(first).take(height) {
        let vcpus: std::collections::BTreeSet<_> =
            summary.vcpus.values().filter(|(id, _)| *id == vm.vm).map(|(_, vcpu)| vcpu).collect();
        let logging = vm.slots.values().filter(|slot| slot.is_logging).count();
        let harvests = vm.slots.values().map(|slot| slot.harvests).sum();
        let gone = if vm.is_gone { " destroyed" } else { "" };
        let mode = format!("{}{gone}", log_mode(vm.ring_bytes, vm.manual_protect));
        let tgid = if vm.tgid == 0 { String::from("?") } else { vm.tgid.to_string() };
        let text = format!(
            "{:<20}{tgid:>8}  {mode:<26}{:>6}{:>6}{:>9}",
            vm.vm.to_string(),
            vcpus.len(),
            format!("{logging}/{}", vm.slots.len()),
            short(harvests)
        );
        let text = cut(&text, width.saturating_sub(2), palette.glyphs);
        lines.push(if index == model.vms_selected {
            Line::styled(format!("{} {text}", palette.glyphs.cursor), palette.selected())
        } else {
            Line::raw(format!("  {text}"))
        });
    }
    frame.render_widget(Paragraph::new(lines), area);
}

#[cfg(test)]
mod tests {
    use insta::assert_snapshot;

    use crate::event::VmId;
    use crate::summary::VmSummary;
    use crate::tui::model::Tab;
    use crate::tui::msg::{Step, Wish};
    use crate::tui::sample::{after, busy, screen, with};

    #[test]
    fn several_vms_are_listed_and_one_is_chosen() {
        let second = VmSummary {
            vm: VmId(0x1000),
            ring_bytes: 65_536,
            is_gone: true,
            ..VmSummary::default()
        };
        let model = with(busy(), |summary| summary.vms.push(second));
        let text = screen(&model, 80, 24);
        assert_snapshot!(text.lines().nth(1).unwrap_or_default(), @"qemu-system-x86 pid 4711 · kernel 6.12.95 · tdp · 2 VMs: 5 chooses one");
        let model = after(model, &[Wish::GoTo(Tab::Vms), Wish::Move(Step::Down)]);
        let text = screen(&model, 80, 24);
        assert_snapshot!(text.lines().skip(2).take(4).collect::<Vec<_>>().join("\n"), @r#"
        ─ VMs: looking at all (Enter looks at one) ─────────────────────────────────────
          struct kvm           process  log mode                   vcpus slots harvests
          0xffff888100000000      4711  manual-protect                 2   1/2       12
        ▸ 0x1000                     ?  ring 64 KiB destroyed          0   0/0        0
        "#);
        let model = after(model, &[Wish::Enter]);
        assert_eq!(model.vm, Some(VmId(0x1000)));
        assert_snapshot!(screen(&model, 80, 24), @r#"
        kvmdirty-trace  1 overview  2 memory  3 coverage  4 mmu_lock  5 vms   live 2.5 s
        qemu-system-x86 pid 4711 · kernel 6.12.95 · tdp · ring 64 KiB · 0 vcpus
        0 slots, 0 logging · destroyed
        lost 1   at-risk 0   exposed 12   unknown 300   safe 1,203,331   (all VMs)
        ─ activity per second ────────────────── ─ windows ─────────────────────────────
        marks             340k       ▁▂▃▄▅▅▆▇██  kind       closed  open   p50 <   p99 <
        fast faults      60.0k        ▁▂▃▄▅▆▇██  fast-fault   123k     2  512 ns  1.0 us
        slow faults       1200       ██████████  host-write      0     0       -       -
        harvested pages  36.0k       ██████████  slow-fault      0     0       -       -
        flushes              3        ▅█ ▅█ ▅█   tlb            12     0  262 us  262 us
        host writes          0                   third case with a harvest inside: 3
        ring pushes          0
        ─ harvests: none yet ───────────────────────────────────────────────────────────
        no GET, CLEAR or RESET has returned

        ─ hazards and exposures 0 by verdict │ longest windows 0 │ harvests 0 ──────────
          verdict rule slot gfn        first      count what happened
          none passes the filter (Esc clears it)




        dropped 0 · gaps 0 · cpu: probe 3.1% tool 1.2% max 25%
        ? help  q quit  n hazard  Tab screen  Enter open  / filter  s sort  space freeze
        "#);
    }
}
