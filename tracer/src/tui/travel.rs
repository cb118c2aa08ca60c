//! Going to the next hazard, in the list or in time, and playing a recording.

use std::sync::Arc;

use crate::feed::{MarkKind, Request, Seek};
use crate::tui::model::{List, Model, Overlay, Tab};
use crate::tui::msg::Effect;
use crate::tui::rows;

/// Speeds of a replay, in percent of real time.
const SPEED_PERCENT: std::ops::RangeInclusive<u32> = 1..=100_000;

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
    let (position, points) = (playback.position, playback.marks.of(kind));
    let (target, step, around, place) = match way {
        Sideways::Left => (
            playback.marks.previous(kind, position),
            Seek::Previous(kind),
            points.last(),
            ("before", "from the end"),
        ),
        Sideways::Right => (
            playback.marks.next(kind, position),
            Seek::Next(kind),
            points.first(),
            ("after", "from the begin"),
        ),
    };
    let around = around.filter(|_| kind == MarkKind::Hazard).copied();
    let effect = match (target, around) {
        (Some(_), _) => seek(step),
        (None, Some(time)) => {
            model.notice = Some(format!("{} {}", kind.name(), place.1));
            seek(Seek::Time(time))
        }
        (None, None) => {
            model.notice = Some(format!("no {} {} this moment", kind.name(), place.0));
            return None;
        }
    };
    model.is_arriving = kind == MarkKind::Hazard;
    Some(effect)
}

/// Selects the hazard that was travelled to, and opens it if another one was open.
pub(super) fn arrive(model: &mut Model) {
    let Some(playback) = &model.shown.playback else { return };
    if !model.is_arriving || playback.is_seeking {
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

pub(super) fn toggle_play(model: &Model) -> Option<Effect> {
    let playback = model.shown.playback.as_ref()?;
    Some(Effect::Ask(if playback.is_playing { Request::Pause } else { Request::Play }))
}

pub(super) fn speed(model: &Model, change: impl Fn(u32) -> u32) -> Option<Effect> {
    let playback = model.shown.playback.as_ref()?;
    let percent =
        change(playback.speed_percent).clamp(*SPEED_PERCENT.start(), *SPEED_PERCENT.end());
    Some(Effect::Ask(Request::Speed(percent)))
}
