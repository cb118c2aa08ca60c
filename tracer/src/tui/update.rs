//! The only place where the model changes. Does no I/O: what must be done outside is returned as an effect.

use std::sync::Arc;

use crate::feed::{Request, Snapshot};
use crate::tui::model::{Direction, Flow, List, Model, Overlay, PromptKind, Shades, Sort, Tab};
use crate::tui::msg::{Effect, ExportFormat, Msg, Wish};
use crate::tui::open;
use crate::tui::prompt;
use crate::tui::rows;
use crate::tui::scroll;
use crate::tui::travel::{Sideways, arrive, go_to_edge, hazard, travel};
use crate::verdict::Finding;

/// Takes one message.
pub fn update(model: &mut Model, msg: Msg) -> Option<Effect> {
    match msg {
        Msg::Snapshot(snapshot) => {
            take_snapshot(model, snapshot);
            None
        }
        Msg::Resize(columns, rows) => {
            model.size = (columns, rows);
            None
        }
        Msg::Told(notice) => {
            model.notice = Some(notice);
            None
        }
        Msg::Scroll(rows) => {
            scroll::by(model, i64::from(rows));
            None
        }
        Msg::Select(index) => {
            model.overview.selected = index;
            scroll::clamp(model);
            None
        }
        Msg::Typed(typed) => prompt::type_key(model, typed),
        Msg::Wish(wish) => {
            model.notice = None;
            grant(model, wish)
        }
    }
}

/// Keeps the selected finding selected when others come before it.
fn take_snapshot(model: &mut Model, snapshot: Arc<Snapshot>) {
    model.newest = Arc::clone(&snapshot);
    if model.flow == Flow::Frozen {
        return;
    }
    let selected = match model.overview.list {
        // The first row stays the first row: it is where one looks for the worst.
        List::Findings if 0 < model.overview.selected => {
            rows::findings(model).get(model.overview.selected).map(|finding| Arc::clone(finding))
        }
        List::Findings | List::Windows | List::Harvests => None,
    };
    model.shown = snapshot;
    keep_earlier(model);
    if let Some(selected) = selected {
        let same = |finding: &&Arc<Finding>| {
            finding.rule == selected.rule
                && finding.vm == selected.vm
                && finding.slot == selected.slot
                && finding.gfn == selected.gfn
                && finding.first == selected.first
        };
        let position = rows::findings(model).iter().position(same);
        model.overview.selected = position.unwrap_or(model.overview.selected);
    }
    arrive(model);
    scroll::clamp(model);
}

/// Trace time between two summaries kept for rates, and how many are kept.
const EARLIER: (u64, usize) = (500_000_000, 5);

/// Keeps summaries of the last seconds of trace time; a jump back makes them worthless.
fn keep_earlier(model: &mut Model) {
    let now = model.shown.summary.now;
    if model.earlier.back().is_some_and(|newest| now < newest.now) {
        model.earlier.clear();
    }
    let is_due = model.earlier.back().is_none_or(|newest| EARLIER.0 <= now.since(newest.now));
    if is_due && model.shown.summary.begin.is_some() {
        model.earlier.push_back(Arc::clone(&model.shown.summary));
        if EARLIER.1 < model.earlier.len() {
            model.earlier.pop_front();
        }
    }
}

fn grant(model: &mut Model, wish: Wish) -> Option<Effect> {
    match wish {
        Wish::Quit => return Some(Effect::Quit),
        Wish::Suspend => return Some(Effect::Suspend),
        Wish::Redraw => return Some(Effect::Redraw),
        Wish::Help => toggle_help(model),
        Wish::Windows => model.overlays.push(Overlay::Windows { scroll: 0 }),
        Wish::Back => return back(model),
        Wish::NextTab => return go_to(model, model.tab.turned(1)),
        Wish::PreviousTab => return go_to(model, model.tab.turned(Tab::ALL.len() - 1)),
        Wish::GoTo(tab) => return go_to(model, tab),
        Wish::Move(step) => scroll::step(model, step),
        Wish::Left => return sideways(model, Sideways::Left),
        Wish::Right => return sideways(model, Sideways::Right),
        Wish::Enter => return open::enter(model),
        Wish::Sort => sort(model),
        Wish::ReverseSort => {
            model.overview.direction = match model.overview.direction {
                Direction::Forward => Direction::Backward,
                Direction::Backward => Direction::Forward,
            };
        }
        Wish::NextHazard => return hazard(model, Sideways::Right),
        Wish::PreviousHazard => return hazard(model, Sideways::Left),
        Wish::Freeze => toggle_freeze(model),
        Wish::Filter => prompt::open(model, PromptKind::Filter),
        Wish::GoToGfn => prompt::open(model, PromptKind::Gfn),
        Wish::GoToTime => prompt::open(model, PromptKind::Time),
        Wish::Explain => explain(model),
        Wish::ExportLitmus => return export(model, ExportFormat::Litmus),
        Wish::ExportJson => return export(model, ExportFormat::Json),
        Wish::Copy => return copy(model),
        Wish::TogglePlay => return Some(Effect::Ask(Request::PlayOrPause)),
        Wish::Faster => return Some(Effect::Ask(Request::Faster)),
        Wish::Slower => return Some(Effect::Ask(Request::Slower)),
        Wish::StepForward(kind) => return travel(model, Sideways::Right, kind),
        Wish::StepBack(kind) => return travel(model, Sideways::Left, kind),
        Wish::SeekBegin => return go_to_edge(model, Sideways::Left),
        Wish::SeekEnd => return go_to_edge(model, Sideways::Right),
    }
    None
}

fn toggle_help(model: &mut Model) {
    match model.overlays.last() {
        Some(Overlay::Help { .. }) => {
            model.overlays.pop();
        }
        Some(_) | None => model.overlays.push(Overlay::Help { scroll: 0 }),
    }
}

fn toggle_freeze(model: &mut Model) {
    match model.flow {
        Flow::Flowing => model.flow = Flow::Frozen,
        Flow::Frozen => {
            model.flow = Flow::Flowing;
            take_snapshot(model, Arc::clone(&model.newest));
        }
    }
}

fn go_to(model: &mut Model, tab: Tab) -> Option<Effect> {
    let was_following = is_following(model);
    let was_looking = is_looking(model);
    model.overlays.clear();
    model.tab = tab;
    // One of the two at most lies on top; what lies below it was told of when it was opened, and is forgotten with it.
    if was_looking {
        return Some(Effect::Ask(Request::LookAway));
    }
    was_following.then_some(Effect::Ask(Request::Unfollow))
}

fn is_following(model: &Model) -> bool {
    matches!(model.overlays.last(), Some(Overlay::Page { .. } | Overlay::Window { .. }))
}

fn is_looking(model: &Model) -> bool {
    matches!(model.overlays.last(), Some(Overlay::Range { .. }))
}

/// Closes what lies on top; with nothing on top, lets go of the filter, then of the VM.
fn back(model: &mut Model) -> Option<Effect> {
    match model.overlays.pop() {
        Some(Overlay::Page { .. } | Overlay::Window { .. }) => Some(Effect::Ask(Request::Unfollow)),
        Some(Overlay::Range { .. }) => {
            // A range that was zoomed into lies inside another one.
            let outer = match model.overlays.last() {
                Some(Overlay::Range { range, .. }) => Request::Look(*range),
                Some(_) | None => Request::LookAway,
            };
            Some(Effect::Ask(outer))
        }
        Some(_) => None,
        None => {
            if model.filter.is_empty() {
                model.vm = None;
            } else {
                model.filter.clear();
            }
            scroll::clamp(model);
            None
        }
    }
}

fn sideways(model: &mut Model, way: Sideways) -> Option<Effect> {
    if let Some(Overlay::Page { vm, gfn, scroll }) = model.overlays.last_mut() {
        gfn.0 = match way {
            Sideways::Left => gfn.0.saturating_sub(1),
            Sideways::Right => gfn.0.saturating_add(1),
        };
        *scroll = usize::MAX;
        return Some(Effect::Ask(Request::Follow { vm: *vm, gfn: *gfn }));
    }
    if let Some(Overlay::Range { range, selected }) = model.overlays.last_mut() {
        *selected = way.step(*selected, range.cells() as usize);
        return None;
    }
    if !model.overlays.is_empty() {
        return None;
    }
    match model.tab {
        Tab::Overview => {
            let index = way.turn(model.overview.list as usize, List::ALL.len());
            model.overview.list = List::ALL[index];
            model.overview.selected = 0;
        }
        Tab::Memory => {
            let cells =
                rows::slots(model).get(model.memory.slot).map_or(0, |(_, _, slot)| slot.heat.len());
            model.memory.cell = way.step(model.memory.cell, cells);
        }
        Tab::Coverage | Tab::Lock | Tab::Vms => {}
    }
    None
}

fn sort(model: &mut Model) {
    match model.tab {
        Tab::Overview => {
            let index = (model.overview.sort as usize + 1) % Sort::ALL.len();
            model.overview.sort = Sort::ALL[index];
            model.overview.selected = 0;
        }
        Tab::Memory => {
            let index = (model.memory.shades as usize + 1) % Shades::ALL.len();
            model.memory.shades = Shades::ALL[index];
        }
        Tab::Coverage | Tab::Lock | Tab::Vms => {}
    }
}

/// The finding a key acts on: the open one, else the selected one.
fn current(model: &Model) -> Option<Arc<Finding>> {
    // A rule's page is of the finding below it.
    let on_top = model.overlays.iter().rev().find(|one| !matches!(one, Overlay::Rule { .. }));
    match on_top {
        Some(Overlay::Finding { finding, .. }) => Some(Arc::clone(finding)),
        Some(Overlay::Range { range, selected }) => {
            let cell = range.cell(*selected as u64);
            rows::findings_in(model, &cell).first().map(|finding| Arc::clone(finding))
        }
        Some(_) => None,
        None => match (model.tab, model.overview.list) {
            (Tab::Overview, List::Findings) => rows::findings(model)
                .get(model.overview.selected)
                .map(|finding| Arc::clone(finding)),
            (Tab::Overview, List::Windows | List::Harvests)
            | (Tab::Memory | Tab::Coverage | Tab::Lock | Tab::Vms, _) => None,
        },
    }
}

fn explain(model: &mut Model) {
    match current(model) {
        Some(finding) => model.overlays.push(Overlay::Rule { rule: finding.rule, scroll: 0 }),
        None => model.notice = Some(String::from("select a finding first")),
    }
}

fn export(model: &mut Model, format: ExportFormat) -> Option<Effect> {
    match current(model) {
        Some(finding) => Some(Effect::Export(finding, format)),
        None => {
            model.notice = Some(String::from("select a finding first"));
            None
        }
    }
}

fn copy(model: &mut Model) -> Option<Effect> {
    let text = crate::tui::view::plain_selection(model);
    if text.is_none() {
        model.notice = Some(String::from("nothing is selected"));
    }
    text.map(Effect::Copy)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Gfn, Nanos};
    use crate::feed::{MarkKind, Seek};
    use crate::tui::msg::{Step, Typed};
    use crate::tui::sample::{VM, after, busy, empty, replay, us, with};
    use crate::tui::travel::seek;
    use crate::verdict::{RuleId, Verdict};

    fn ask(model: &mut Model, wish: Wish) -> Option<Effect> {
        update(model, Msg::Wish(wish))
    }

    fn write(model: &mut Model, text: &str) -> Option<Effect> {
        for c in text.chars() {
            update(model, Msg::Typed(Typed::Char(c)));
        }
        update(model, Msg::Typed(Typed::Accept))
    }

    fn rules(model: &Model) -> Vec<RuleId> {
        rows::findings(model).iter().map(|finding| finding.rule).collect()
    }

    #[test]
    fn the_worst_comes_first_and_every_order_can_be_reversed() {
        use RuleId::{K05, K09, K14, K15};
        let mut model = busy();
        assert_eq!(rules(&model), [K05, K15, K14, K09]);
        ask(&mut model, Wish::Sort);
        assert_eq!(rules(&model), [K15, K14, K09, K05]);
        ask(&mut model, Wish::ReverseSort);
        assert_eq!(rules(&model), [K05, K09, K14, K15]);
    }

    #[test]
    fn a_selected_finding_stays_selected_when_a_worse_one_comes() {
        let mut model = after(busy(), &[Wish::Move(Step::Down)]);
        assert_eq!(rows::findings(&model)[model.overview.selected].rule, RuleId::K15);
        model = with(model, |summary| {
            let mut worse = (*summary.findings[1]).clone();
            worse.first = us(1);
            summary.findings.push(Arc::new(worse));
        });
        assert_eq!(model.overview.selected, 2);
        assert_eq!(rows::findings(&model)[model.overview.selected].rule, RuleId::K15);
    }

    #[test]
    fn a_frozen_screen_takes_the_newest_when_it_thaws() {
        let frozen = after(busy(), &[Wish::Freeze]);
        let before = frozen.shown.summary.now;
        let later = with(frozen, |summary| summary.now = us(9_000_000));
        assert_eq!(later.shown.summary.now, before);
        assert_eq!(after(later, &[Wish::Freeze]).shown.summary.now, us(9_000_000));
    }

    #[test]
    fn the_filter_works_while_it_is_typed_and_escape_brings_the_old_one_back() {
        let mut model = busy();
        ask(&mut model, Wish::Filter);
        write(&mut model, "exposed K14");
        assert_eq!(rules(&model), [RuleId::K14]);
        ask(&mut model, Wish::Filter);
        update(&mut model, Msg::Typed(Typed::Clear));
        assert_eq!(rules(&model).len(), 4);
        update(&mut model, Msg::Typed(Typed::Cancel));
        assert_eq!(rules(&model), [RuleId::K14]);
        ask(&mut model, Wish::Back);
        assert_eq!(rules(&model).len(), 4);
    }

    #[test]
    fn hazards_can_be_walked_through_from_the_open_one() {
        let mut model = after(busy(), &[Wish::Enter, Wish::NextHazard]);
        let open = |model: &Model| match model.overlays.last() {
            Some(Overlay::Finding { finding, .. }) => Some(finding.verdict),
            _ => None,
        };
        assert_eq!(open(&model), Some(Verdict::AtRisk));
        ask(&mut model, Wish::PreviousHazard);
        assert_eq!(open(&model), Some(Verdict::Lost));
        let mut quiet = empty();
        assert_eq!(ask(&mut quiet, Wish::NextHazard), None);
        assert!(quiet.notice.is_some());
    }

    #[test]
    fn exports_are_effects_on_the_selected_finding() {
        let mut model = busy();
        let Some(Effect::Export(finding, ExportFormat::Litmus)) =
            ask(&mut model, Wish::ExportLitmus)
        else {
            panic!("no export");
        };
        assert_eq!(finding.rule, RuleId::K05);
        ask(&mut model, Wish::GoTo(Tab::Coverage));
        assert_eq!(ask(&mut model, Wish::ExportJson), None);
        assert_eq!(model.notice.as_deref(), Some("select a finding first"));
    }

    #[test]
    fn a_page_is_followed_until_its_screen_is_closed() {
        let mut model = busy();
        ask(&mut model, Wish::GoToGfn);
        let follow = write(&mut model, "0x1234");
        let expected = Request::Follow { vm: VM, gfn: Gfn(0x1234) };
        assert_eq!(follow, Some(Effect::Ask(expected)));
        let right = ask(&mut model, Wish::Right);
        let expected = Request::Follow { vm: VM, gfn: Gfn(0x1235) };
        assert_eq!(right, Some(Effect::Ask(expected)));
        assert_eq!(ask(&mut model, Wish::Back), Some(Effect::Ask(Request::Unfollow)));
        ask(&mut model, Wish::GoToGfn);
        assert_eq!(write(&mut model, "page 7"), None);
        assert!(model.notice.is_some());
    }

    #[test]
    fn a_replay_steps_and_says_where_nothing_is_left() {
        let at = |time| Some(seek(Seek::Time(us(time))));
        let mut model = replay();
        // The second step does not wait until the first is on screen.
        assert_eq!(ask(&mut model, Wish::StepForward(MarkKind::Harvest)), at(1_600_000));
        assert_eq!(ask(&mut model, Wish::StepForward(MarkKind::Harvest)), at(1_800_000));
        assert_eq!(ask(&mut model, Wish::NextHazard), at(1_200_000));
        assert_eq!(model.notice.as_deref(), Some("hazard from the begin"));
        assert_eq!(ask(&mut model, Wish::SeekEnd), Some(seek(Seek::End)));
        assert_eq!(ask(&mut model, Wish::PreviousHazard), at(1_200_000));
        assert_eq!(ask(&mut model, Wish::SeekBegin), Some(seek(Seek::Begin)));
        assert_eq!(ask(&mut model, Wish::StepBack(MarkKind::Harvest)), None);
        assert_eq!(model.notice.as_deref(), Some("no harvest before this moment"));
        assert_eq!(ask(&mut model, Wish::Faster), Some(Effect::Ask(Request::Faster)));
    }

    #[test]
    fn times_are_seconds_minutes_or_percent() {
        let at = |text: &str| {
            let mut model = replay();
            ask(&mut model, Wish::GoToTime);
            match write(&mut model, text) {
                Some(Effect::Ask(Request::Seek(Seek::Time(time)))) => Some(time),
                _ => None,
            }
        };
        assert_eq!(at("1.5"), Some(us(1_500_000)));
        assert_eq!(at("50%"), Some(us(1_500_000)));
        assert_eq!(at("9:00"), Some(us(3_000_000)));
        assert_eq!(at("soon"), None::<Nanos>);
    }

    #[test]
    fn what_is_on_screen_can_be_copied() {
        let mut model = busy();
        let Some(Effect::Copy(row)) = ask(&mut model, Wish::Copy) else { panic!("no copy") };
        assert!(row.starts_with("lost K05 slot 0:0 gfn 0x1000 x3: harvest 6"), "{row}");
        ask(&mut model, Wish::Enter);
        let Some(Effect::Copy(page)) = ask(&mut model, Wish::Copy) else { panic!("no copy") };
        assert!(page.contains("order known"), "{page}");
        assert_eq!(ask(&mut after(empty(), &[]), Wish::Copy), None);
    }

    #[test]
    fn tabs_turn_around_and_close_what_lies_on_top() {
        let model = after(busy(), &[Wish::PreviousTab]);
        assert_eq!(model.tab, Tab::Vms);
        let model = after(model, &[Wish::Help, Wish::NextTab]);
        assert_eq!(model.tab, Tab::Overview);
        assert!(model.overlays.is_empty());
    }

    #[test]
    fn a_seek_backwards_leaves_no_selection_beyond_the_end() {
        let model = after(busy(), &[Wish::Move(Step::Bottom)]);
        let earlier = with(model, |summary| summary.findings.truncate(1));
        assert_eq!(earlier.overview.selected, 0);
    }
}
