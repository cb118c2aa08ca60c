//! Going to the next hazard, in the list or in time, and playing a recording.

use std::sync::Arc;

use crate::event::Nanos;
use crate::feed::{MarkKind, Request, Seek};
use crate::tui::model::{List, Model, Overlay, Tab};
use crate::tui::msg::Effect;
use crate::tui::rows;

/// Which way along a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sideways {
    Left,
    Right,
}

impl Sideways {
    /// The neighbour of `index` among `len`, around the ends.
    pub(super) const fn turn(self, index: usize, len: usize) -> usize {
        match self {
            Self::Left => (index + len - 1) % len,
            Self::Right => (index + 1) % len,
        }
    }

    /// The neighbour of `index` among `len`, no further than the ends.
    pub(super) fn step(self, index: usize, len: usize) -> usize {
        match self {
            Self::Left => index.saturating_sub(1),
            Self::Right => (index + 1).min(len.saturating_sub(1)),
        }
    }
}

/// A wish of the replay.
pub(super) const fn seek(seek: Seek) -> Effect {
    Effect::Ask(Request::Seek(seek))
}

/// Steps to the next point of a kind, or says that there is none. Hazards go round: a recording opens at its end.
pub(super) fn travel(model: &mut Model, way: Sideways, kind: MarkKind) -> Option<Effect> {
    let playback = model.shown.playback.as_ref()?;
    let (position, points) = (model.heading.unwrap_or(playback.position), playback.marks.of(kind));
    let (target, around, place) = match way {
        Sideways::Left => {
            (playback.marks.previous(kind, position), points.last(), ("before", "from the end"))
        }
        Sideways::Right => {
            (playback.marks.next(kind, position), points.first(), ("after", "from the begin"))
        }
    };
    let around = around.filter(|_| kind == MarkKind::Hazard).copied();
    let time = match (target, around) {
        (Some(time), _) => time,
        (None, Some(time)) => {
            model.notice = Some(format!("{} {}", kind.name(), place.1));
            time
        }
        (None, None) => {
            model.notice = Some(format!("no {} {} this moment", kind.name(), place.0));
            return None;
        }
    };
    model.is_arriving = kind == MarkKind::Hazard;
    Some(go_to_time(model, time))
}

/// Goes to a moment. Until the player is there, steps count from it: keys may come faster than the screen.
pub(super) fn go_to_time(model: &mut Model, time: Nanos) -> Effect {
    model.heading = Some(time);
    seek(Seek::Time(time))
}

/// The begin or the end.
pub(super) fn go_to_edge(model: &mut Model, way: Sideways) -> Option<Effect> {
    let playback = model.shown.playback.as_ref()?;
    model.heading = Some(match way {
        Sideways::Left => playback.begin,
        Sideways::Right => playback.end,
    });
    Some(seek(match way {
        Sideways::Left => Seek::Begin,
        Sideways::Right => Seek::End,
    }))
}

/// Selects the hazard that was travelled to, and opens it if another one was open.
pub(super) fn arrive(model: &mut Model) {
    let Some(playback) = &model.shown.playback else { return };
    let is_there = model.heading == Some(playback.position);
    if is_there || (playback.is_playing && !playback.is_seeking) {
        model.heading = None;
    }
    if !model.is_arriving || model.heading.is_some() {
        return;
    }
    model.is_arriving = false;
    let rows = rows::findings(model);
    let hazards = rows.iter().enumerate().filter(|(_, finding)| finding.verdict.is_hazard());
    let newest = hazards.max_by_key(|(_, finding)| finding.known_at());
    let Some((index, finding)) = newest.map(|(index, finding)| (index, Arc::clone(finding))) else {
        return;
    };
    model.overview.list = List::Findings;
    model.overview.selected = index;
    if let Some(Overlay::Finding { .. }) = model.overlays.last() {
        model.overlays.pop();
        model.overlays.push(Overlay::Finding { finding, scroll: 0 });
    }
}

/// In a replay, travels to the next hazard; else selects it in the list, opening the list if need be.
pub(super) fn hazard(model: &mut Model, way: Sideways) -> Option<Effect> {
    if model.is_replay() {
        return travel(model, way, MarkKind::Hazard);
    }
    let rows = rows::findings(model);
    if rows.is_empty() {
        model.notice = Some(String::from("no hazard and no exposure so far"));
        return None;
    }
    let is_open = matches!(model.overlays.last(), Some(Overlay::Finding { .. }));
    let is_listed = model.tab == Tab::Overview && model.overview.list == List::Findings;
    let index = if is_listed || is_open {
        way.turn(model.overview.selected.min(rows.len() - 1), rows.len())
    } else {
        0
    };
    let finding = Arc::clone(rows[index]);
    model.tab = Tab::Overview;
    model.overview.list = List::Findings;
    model.overview.selected = index;
    if is_open {
        model.overlays.pop();
        model.overlays.push(Overlay::Finding { finding, scroll: 0 });
    }
    None
}
