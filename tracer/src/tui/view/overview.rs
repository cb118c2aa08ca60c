//! Overview: verdicts, activity, windows, harvests, and one of three lists.
//!
//! ```text
//! lost 1   at-risk 0   exposed 12   unknown 300   safe 1,203,331
//! - activity per second -----------  - windows --------------------
//! marks        1.2M ..:-=+*#%        kind  closed  open  p50  p99
//! ...                                ...
//! - harvests: iteration 12, converging ----------------------------
//! ...:-=+*#    bars: pages per iteration
//! - hazards and exposures (9) | longest windows | harvests --------
//! rows
//! ```

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::text::{Line, Span};
use ratatui::widgets::Paragraph;

use crate::tui::figures::short;
use crate::tui::model::{Direction, List, Model};
use crate::tui::rows;
use crate::tui::scroll;
use crate::tui::view::{activity, findings, frame as around, harvests, windows};

/// Rows of the harvest bars.
const fn bar_rows(area: Rect) -> u16 {
    if area.height < 30 { 1 } else { 6 }
}

/// Rows of the list area from which the newest harvests stand below whatever list is chosen.
const HARVESTS_FROM: u16 = 20;

/// Verdicts, activity and windows, harvests, list.
fn areas(model: &Model, area: Rect) -> [Rect; 4] {
    Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(activity::height(model)),
        Constraint::Length(2 + bar_rows(area)),
        Constraint::Min(3),
    ])
    .areas(area)
}

/// The row of the list at a row of the screen, if one is there.
#[must_use]
pub fn row_at(model: &Model, area: Rect, row: u16) -> Option<usize> {
    let [_, _, _, list] = areas(model, area);
    let [list, _] = list_areas(model, list);
    let height = usize::from(list.height).saturating_sub(2);
    let len = rows::list_len(model);
    let offset = usize::from(row.checked_sub(list.y)?).checked_sub(2)?;
    let index = scroll::first_row(model.overview.selected, len, height) + offset;
    (offset < height && index < len).then_some(index)
}

/// Draws the overview.
pub fn draw(frame: &mut Frame<'_>, model: &Model, area: Rect) {
    let [verdicts, middle, harvest, list] = areas(model, area);
    frame.render_widget(around::verdict_line(model), verdicts);
    let [left, _, right] =
        Layout::horizontal([Constraint::Fill(1), Constraint::Length(1), Constraint::Fill(1)])
            .areas(middle);
    frame.render_widget(Paragraph::new(activity::lines(model, usize::from(left.width))), left);
    frame.render_widget(Paragraph::new(windows::lines(model, usize::from(right.width))), right);
    let lines = harvests::lines(model, usize::from(harvest.width), usize::from(bar_rows(area)));
    frame.render_widget(Paragraph::new(lines), harvest);
    let [list, below] = list_areas(model, list);
    frame.render_widget(Paragraph::new(list_lines(model, list)), list);
    if 0 < below.height {
        let mut lines = vec![around::heading(model, "newest harvests", usize::from(below.width))];
        let (height, width) = (usize::from(below.height) - 2, usize::from(below.width));
        lines.extend(harvests::table(model, 0, height, width));
        frame.render_widget(Paragraph::new(lines), below);
    }
}

/// The chosen list, and where there is room the newest harvests.
fn list_areas(model: &Model, area: Rect) -> [Rect; 2] {
    let is_split = HARVESTS_FROM <= area.height && model.overview.list != List::Harvests;
    let below = if is_split { area.height / 2 } else { 0 };
    Layout::vertical([Constraint::Min(1), Constraint::Length(below)]).areas(area)
}

fn list_lines(model: &Model, area: Rect) -> Vec<Line<'static>> {
    let width = usize::from(area.width);
    let height = usize::from(area.height).saturating_sub(2);
    let selected = model.overview.selected;
    let len = rows::list_len(model);
    let first = scroll::first_row(selected, len, height);
    let mut lines = vec![list_heading(model, width)];
    let body = match model.overview.list {
        List::Findings => findings::table(model, first, height, width),
        List::Windows => windows::table(model, first, height, width),
        List::Harvests => harvests::table(model, first, height, width),
    };
    lines.extend(body);
    lines
}

/// The names of the lists with their lengths, the shown one with its order.
fn list_heading(model: &Model, width: usize) -> Line<'static> {
    let palette = &model.palette;
    let rule = palette.glyphs.rule;
    let mut spans = vec![Span::styled(format!("{rule} "), palette.quiet())];
    for list in List::ALL {
        if 1 < spans.len() {
            spans.push(Span::styled(format!(" {} ", palette.glyphs.column), palette.quiet()));
        }
        let name = format!("{} {}", list.name(), short(rows::len_of(model, list) as u64));
        if list == model.overview.list {
            let order = match (list, model.overview.direction) {
                (List::Findings, Direction::Forward) => {
                    format!(" by {}", model.overview.sort.name())
                }
                (List::Findings, Direction::Backward) => {
                    format!(" by {}, reversed", model.overview.sort.name())
                }
                (List::Windows | List::Harvests, _) => String::new(),
            };
            spans.push(Span::styled(format!("{name}{order}"), palette.heading()));
        } else {
            spans.push(Span::styled(name, palette.quiet()));
        }
    }
    spans.push(Span::raw(" "));
    let used: usize = spans.iter().map(Span::width).sum();
    spans.push(Span::styled(rule.repeat(width.saturating_sub(used)), palette.quiet()));
    Line::from(spans)
}

/// A row of a list: the selected one stands out by glyph and style.
#[must_use]
pub fn list_row(model: &Model, row: (List, usize), spans: Vec<Span<'static>>) -> Line<'static> {
    let glyphs = model.palette.glyphs;
    if row == (model.overview.list, model.overview.selected) {
        let mut line = vec![Span::raw(format!("{} ", glyphs.cursor))];
        line.extend(spans);
        Line::from(line).patch_style(model.palette.selected())
    } else {
        let mut line = vec![Span::raw("  ")];
        line.extend(spans);
        Line::from(line)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use insta::assert_snapshot;

    use crate::feed::{Snapshot, Stage};
    use crate::tui::model::{List, Tab};
    use crate::tui::msg::{Msg, Wish};
    use crate::tui::palette::Theme;
    use crate::tui::sample::{
        after, busy, empty, lossy, overflowing, poorly_attached, replay, screen, with,
    };
    use crate::tui::update::update;

    #[test]
    fn an_empty_trace_says_that_nothing_was_seen() {
        assert_snapshot!(screen(&empty(), 80, 24), @r#"
        kvmdirty-trace  1 overview  2 memory  3 coverage  4 mmu_lock  5 vms   live 0.0 s
        qemu-system-x86 pid 4711 · kernel 6.12.95 · tdp · no VM seen yet
        lost 0   at-risk 0   exposed 0   unknown 0   safe 0
        ─ activity per second ────────────────── ─ windows ─────────────────────────────
        marks                0                   kind       closed  open   p50 <   p99 <
        fast faults          0                   fast-fault      0     0       -       -
        slow faults          0                   host-write      0     0       -       -
        harvested pages      0                   slow-fault      0     0       -       -
        flushes              0                   tlb             0     0       -       -
        host writes          0                   third case with a harvest inside: 0
        ─ harvests: none yet ───────────────────────────────────────────────────────────
        no GET, CLEAR or RESET has returned

        ─ hazards and exposures 0 by verdict │ longest windows 0 │ harvests 0 ──────────
          verdict rule slot gfn        first      count what happened
          none so far






        dropped 0 · gaps 0 · overhead not measured
        ? help  q quit  n hazard  Tab screen  Enter open  / filter  s sort  space freeze
        "#);
    }

    #[test]
    fn a_busy_trace_shows_everything_at_80x24() {
        assert_snapshot!(screen(&busy(), 80, 24), @r#"
        kvmdirty-trace  1 overview  2 memory  3 coverage  4 mmu_lock  5 vms   live 2.5 s
        qemu-system-x86 pid 4711 · kernel 6.12.95 · tdp · manual-protect · 2 vcpus
        2 slots, 1 logging for 2.4 s
        lost 1   at-risk 0   exposed 12   unknown 300   safe 1,203,331
        ─ activity per second ────────────────── ─ windows ─────────────────────────────
        marks             340k       ▁▂▃▄▅▅▆▇██  kind       closed  open   p50 <   p99 <
        fast faults      60.0k        ▁▂▃▄▅▆▇██  fast-fault   123k     2  512 ns  1.0 us
        slow faults       1200       ██████████  host-write      0     0       -       -
        harvested pages  36.0k       ██████████  slow-fault      0     0       -       -
        flushes              3        ▅█ ▅█ ▅█   tlb            12     0  262 us  262 us
        host writes          0                   third case with a harvest inside: 3
        ─ harvests 12: iteration 12, converging; at least 12 us of each by tracing ─────
        pages    20.4k ████▄▄▄▄▂▂▂▂▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁
        last 10 pages in 1 harvest; GET: words 600 us, flush 120 us, ioctl 900 us
        ─ hazards and exposures 4 by verdict │ longest windows 1 │ harvests 12 ─────────
          verdict rule slot gfn        first      count what happened
        ▸ lost    K05  0:0  0x1000     1.200000       3 harvest 6 took the bit and retu…
          at-risk K15  0:0  0x2000     0.012400       1 [known: enable-skips-flush] sta…
          exposed K14  0:0  (slot)     0.900000       1 CLEAR of bits never read
          exposed K09  0:0  0x1234     1.000031       1 window closed after the last ha…


        dropped 0 · gaps 0 · cpu: probe 3.1% tool 1.2% max 25%
        ? help  q quit  n hazard  Tab screen  Enter open  / filter  s sort  space freeze
        "#);
    }

    #[test]
    fn a_wide_terminal_shows_histograms_and_tall_bars() {
        assert_snapshot!(screen(&busy(), 160, 50), @r#"
        kvmdirty-trace  1 overview  2 memory  3 coverage  4 mmu_lock  5 vms                                                                                   live 2.5 s
        qemu-system-x86 pid 4711 · kernel 6.12.95 · tdp · manual-protect · 2 vcpus · 2 slots, 1 logging for 2.4 s
        lost 1   at-risk 0   exposed 12   unknown 300   safe 1,203,331
        ─ activity per second ────────────────────────────────────────────────────────── ─ windows ─────────────────────────────────────────────────────────────────────
        marks             340k                                               ▁▂▃▄▅▅▆▇██  kind       closed  open   p50 <   p99 < longest  1 ns, x2 per bar, 16 ms+
        fast faults      60.0k                                                ▁▂▃▄▅▆▇██  fast-fault   123k     2  512 ns  1.0 us   31 us          █▂    ▁
        slow faults       1200                                               ██████████  host-write      0     0       -       -       -
        harvested pages  36.0k                                               ██████████  slow-fault      0     0       -       -       -
        flushes              3                                                ▅█ ▅█ ▅█   tlb            12     0  262 us  262 us       -                   █
        host writes          0                                                           third case with a harvest inside: 3
        ─ harvests 12: iteration 12, converging; at least 12 us of each by tracing ─────────────────────────────────────────────────────────────────────────────────────
        pages    20.4k ████
                       ████▄▄▄▄
                       ████████▆▆▆▆▃▃▃▃▂▂▂▂▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁
        ioctl   900 us ████████████████████████████████████████████████
        protect 600 us ████████████████████████████████████████████████
        flush   120 us ████████████████████    ████████████████████████
        last 10 pages in 1 harvest; GET: words 600 us, flush 120 us, ioctl 900 us
        ─ hazards and exposures 4 by verdict │ longest windows 1 │ harvests 12 ─────────────────────────────────────────────────────────────────────────────────────────
          verdict rule slot gfn        first      count what happened
        ▸ lost    K05  0:0  0x1000     1.200000       3 harvest 6 took the bit and returned without a flush; vcpu 1 wrote through its stale TLB entry
          at-risk K15  0:0  0x2000     0.012400       1 [known: enable-skips-flush] stayed writable when logging was turned on
          exposed K14  0:0  (slot)     0.900000       1 CLEAR of bits never read
          exposed K09  0:0  0x1234     1.000031       1 window closed after the last harvest









        ─ newest harvests ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────
          op    slot   iter begin         pages protect   flush   ioctl  verdict
          GET   0:0      12 2.399100         10  600 us  120 us  900 us  safe
          GET   0:0      11 2.199100         20  600 us  120 us  900 us  safe
          GET   0:0      10 1.999100         40  600 us  120 us  900 us  safe
          GET   0:0       9 1.799100         80  600 us  120 us  900 us  safe
          GET   0:0       8 1.599100        160  600 us  120 us  900 us  safe
          GET   0:0       7 1.399100        320  600 us  120 us  900 us  safe
          GET   0:0       6 1.199100        640  600 us    none  900 us  lost
          GET   0:0       5 0.999100       1280  600 us  120 us  900 us  safe
          GET   0:0       4 0.799100       2560  600 us  120 us  900 us  safe
          GET   0:0       3 0.599100       5120  600 us  120 us  900 us  safe, incomplete
          GET   0:0       2 0.399100      10.2k  600 us  120 us  900 us  safe
          GET   0:0       1 0.199100      20.4k  600 us  120 us  900 us  safe

        dropped 0 · gaps 0 · anomalies 0 · integrity 0 · cpu: probe 3.1% tool 1.2% max 25%
        ? help  q quit  n hazard  Tab screen  Enter open  / filter  s sort  space freeze  Right next  w windows
        "#);
    }

    #[test]
    fn a_tiny_terminal_explains_itself() {
        assert_snapshot!(screen(&busy(), 40, 10), @r#"
        40x10 is too small:
        80x24 is needed
        lost 1
        at-risk 0
        exposed 12
        unknown 300
        safe 1.2M
        dropped 0
        q quit
        "#);
    }

    #[test]
    fn ascii_needs_no_other_character() {
        let mut model = busy();
        model.palette = Theme::Ascii.palette();
        let text = screen(&model, 80, 24);
        assert!(text.is_ascii(), "{text}");
        assert_snapshot!(text, @r#"
        kvmdirty-trace  1 overview  2 memory  3 coverage  4 mmu_lock  5 vms   live 2.5 s
        qemu-system-x86 pid 4711 - kernel 6.12.95 - tdp - manual-protect - 2 vcpus
        2 slots, 1 logging for 2.4 s
        lost 1   at-risk 0   exposed 12   unknown 300   safe 1,203,331
        - activity per second ------------------ - windows -----------------------------
        marks             340k       .:-=++*%##  kind       closed  open   p50 <   p99 <
        fast faults      60.0k        .:-=+*%##  fast-fault   123k     2  512 ns  1.0 us
        slow faults       1200       ##########  host-write      0     0       -       -
        harvested pages  36.0k       ##########  slow-fault      0     0       -       -
        flushes              3        +# +# +#   tlb            12     0  262 us  262 us
        host writes          0                   third case with a harvest inside: 3
        - harvests 12: iteration 12, converging; at least 12 us of each by tracing -----
        pages    20.4k ####====::::....................................
        last 10 pages in 1 harvest; GET: words 600 us, flush 120 us, ioctl 900 us
        - hazards and exposures 4 by verdict | longest windows 1 | harvests 12 ---------
          verdict rule slot gfn        first      count what happened
        > lost    K05  0:0  0x1000     1.200000       3 harvest 6 took the bit and retu~
          at-risk K15  0:0  0x2000     0.012400       1 [known: enable-skips-flush] sta~
          exposed K14  0:0  (slot)     0.900000       1 CLEAR of bits never read
          exposed K09  0:0  0x1234     1.000031       1 window closed after the last ha~


        dropped 0 - gaps 0 - cpu: probe 3.1% tool 1.2% max 25%
        ? help  q quit  n hazard  Tab screen  Enter open  / filter  s sort  space freeze
        "#);
    }

    #[test]
    fn loss_is_in_sight() {
        let text = screen(&poorly_attached(with(busy(), lossy)), 80, 24);
        assert_snapshot!(text.lines().rev().nth(1).unwrap_or_default(), @"dropped 4,203 · gaps 2 · 4 rules off · cpu: probe 3.1% tool 1.2% max 25%");
    }

    #[test]
    fn a_frozen_screen_says_so_and_how_far_it_is_behind() {
        let mut model = after(busy(), &[Wish::Freeze]);
        model = with(model, |summary| summary.now.0 += 1_500_000_000);
        let text = screen(&model, 80, 24);
        assert_snapshot!(text.lines().next().unwrap_or_default(), @"kvmdirty-trace  1 overview  2 memory  3 coverage  4 mmu_lock  5 vms FROZEN 1.5 s");
    }

    #[test]
    fn the_largest_numbers_break_nothing() {
        assert_snapshot!(screen(&with(busy(), overflowing), 80, 24), @r#"
        kvmdirty-trace  1 overview  2 memory  3 coverage  4 mmu_lock  5 vms live 512409…
        qemu-system-x86 pid 4711 · kernel 6.12.95 · tdp · manual-protect · 2 vcpus
        2 slots, 1 logging for 5124095:34:28
        lost 18,446,744,073,709,551,615   at-risk 0   exposed 12   unknown 300   safe 18
        ─ activity per second ────────────────── ─ windows ─────────────────────────────
        marks                0                   kind       closed  open   p50 <   p99 <
        fast faults          0                   fast-fault 18446P18446P  1.0 ms  18 min
        slow faults          0                   host-write 18446P18446P  1.0 ms  18 min
        harvested pages      0                   slow-fault 18446P18446P  1.0 ms  18 min
        flushes              0                   tlb        18446P18446P  1.0 ms  18 min
        host writes          0                   third case with a harvest inside: 3
        ─ harvests 18,446,744,073,709,551,615: iteration 12, steady; at least 12 us o… ─
        pages     288P ████████████████████████████████████████████████
        last 288,230,376,151,711,743 pages in 1 harvest; GET: words 600 us, flush 120 u…
        ─ hazards and exposures 4 by verdict │ longest windows 1 │ harvests 12 ─────────
          verdict rule slot gfn        first      count what happened
        ▸ lost    K05  0:0  0x1000     1.200000       3 harvest 6 took the bit and retu…
          at-risk K15  0:0  0x2000     0.012400       1 [known: enable-skips-flush] sta…
          exposed K14  0:0  (slot)     0.900000       1 CLEAR of bits never read
          exposed K09  0:0  0x1234     1.000031       1 window closed after the last ha…
          and 18446P more, only counted

        dropped 18446P · gaps 18446P · anomalies 18446P · integrity 18446P · cpu: probe…
        ? help  q quit  n hazard  Tab screen  Enter open  / filter  s sort  space freeze
        "#);
    }

    #[test]
    fn a_replay_has_a_line_for_time() {
        assert_snapshot!(screen(&replay(), 80, 24), @r#"
        kvmdirty-trace  1 overview  2 memory  3 coverage  4 mmu_lock  5 vms       replay
        kernel 6.12.95 · manual-protect · 2 vcpus · 2 slots, 1 logging for 2.4 s
        playing vm.kdt
        lost 1   at-risk 0   exposed 12   unknown 300   safe 1,203,331
        ─ activity per second ────────────────── ─ windows ─────────────────────────────
        marks             340k       ▁▂▃▄▅▅▆▇██  kind       closed  open   p50 <   p99 <
        fast faults      60.0k        ▁▂▃▄▅▆▇██  fast-fault   123k     2  512 ns  1.0 us
        slow faults       1200       ██████████  host-write      0     0       -       -
        harvested pages  36.0k       ██████████  slow-fault      0     0       -       -
        flushes              3        ▅█ ▅█ ▅█   tlb            12     0  262 us  262 us
        host writes          0                   third case with a harvest inside: 3
        ─ harvests 12: iteration 12, converging; pages per iteration ───────────────────
        pages    20.4k ████▄▄▄▄▂▂▂▂▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁
        last 10 pages in 1 harvest; GET: words 600 us, flush 120 us, ioctl 900 us
        ─ hazards and exposures 4 by verdict │ longest windows 1 │ harvests 12 ─────────
          verdict rule slot gfn        first      count what happened
        ▸ lost    K05  0:0  0x1000     1.200000       3 harvest 6 took the bit and retu…
          at-risk K15  0:0  0x2000     0.012400       1 [known: enable-skips-flush] sta…
          exposed K14  0:0  (slot)     0.900000       1 CLEAR of bits never read
          exposed K09  0:0  0x1234     1.000031       1 window closed after the last ha…

        ▶ playing 0.5x  1.500000 of 3.000000 ████████!██░░░░░░░░░░ 1 hazard, 12 harvests
        dropped 0 · gaps 0 · 1.2M events
        ? help  q quit  space play  . harvest  n hazard  Tab screen  Enter open
        "#);
    }

    #[test]
    fn the_other_lists_take_the_place_of_the_findings() {
        let windows = after(busy(), &[Wish::Right]);
        assert_eq!(windows.overview.list, List::Windows);
        let text = screen(&windows, 80, 24);
        let list: Vec<_> = text.lines().skip(13).take(4).collect();
        assert_snapshot!(list.join("\n"), @r#"
        last 10 pages in 1 harvest; GET: words 600 us, flush 120 us, ioctl 900 us
        ─ hazards and exposures 4 │ longest windows 1 │ harvests 12 ────────────────────
          kind       slot    gfn            open for  opened           tid  harvests
        ▸ fast-fault 0:0     0x1234            31 us  1.000000        4712  1
        "#);
        let harvests = after(windows, &[Wish::Right]);
        let text = screen(&harvests, 80, 24);
        let list: Vec<_> = text.lines().skip(13).take(9).collect();
        assert_snapshot!(list.join("\n"), @r#"
        last 10 pages in 1 harvest; GET: words 600 us, flush 120 us, ioctl 900 us
        ─ hazards and exposures 4 │ longest windows 1 │ harvests 12 ────────────────────
          op    slot   iter begin         pages protect   flush   ioctl  verdict
        ▸ GET   0:0      12 2.399100         10  600 us  120 us  900 us  safe
          GET   0:0      11 2.199100         20  600 us  120 us  900 us  safe
          GET   0:0      10 1.999100         40  600 us  120 us  900 us  safe
          GET   0:0       9 1.799100         80  600 us  120 us  900 us  safe
          GET   0:0       8 1.599100        160  600 us  120 us  900 us  safe
          GET   0:0       7 1.399100        320  600 us  120 us  900 us  safe
        "#);
    }

    #[test]
    fn clicks_select_tabs_and_rows() {
        let model = busy();
        let click = |column, row| crate::tui::view::click(&model, column, row);
        assert!(matches!(click(30, 0), Some(Msg::Wish(Wish::GoTo(Tab::Memory)))));
        assert!(matches!(click(5, 16), Some(Msg::Select(0))));
        assert!(click(5, 20).is_none());
    }

    #[test]
    fn a_recording_that_is_read_says_how_far_and_how_long() {
        let model = replay();
        let stage = Stage::Loading { done: 34, total: 100, left_s: Some(3) };
        let mut loading = model.clone();
        let snapshot = Snapshot { stage, ..(*model.shown).clone() };
        update(&mut loading, Msg::Snapshot(Arc::new(snapshot)));
        let text = screen(&loading, 80, 24);
        assert_snapshot!(text.lines().nth(21).unwrap_or_default(), @r#"
        ▶ reading 34%, about 3 s left █████████████████░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░
        "#);
        assert!(text.lines().next().is_some_and(|line| line.ends_with("reading 34%")), "{text}");
    }
}
