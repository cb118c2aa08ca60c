//! The line being typed: a filter, a gfn, a time.

use crate::event::{Gfn, Nanos};
use crate::tui::figures;
use crate::tui::model::{Model, Prompt, PromptKind};
use crate::tui::msg::{Effect, Typed};
use crate::tui::open::follow;
use crate::tui::travel::go_to_time;

/// Opens the line.
pub fn open(model: &mut Model, kind: PromptKind) {
    let text = match kind {
        PromptKind::Filter => model.filter.clone(),
        PromptKind::Gfn | PromptKind::Time => String::new(),
    };
    model.prompt = Some(Prompt { kind, before: text.clone(), text });
}

/// Takes one key.
pub fn type_key(model: &mut Model, typed: Typed) -> Option<Effect> {
    let prompt = model.prompt.as_mut()?;
    match typed {
        Typed::Char(c) => prompt.text.push(c),
        Typed::Backspace => {
            prompt.text.pop();
        }
        Typed::Clear => prompt.text.clear(),
        Typed::Cancel => {
            let Prompt { kind, before, .. } = model.prompt.take()?;
            if kind == PromptKind::Filter {
                set_filter(model, &before);
            }
            return None;
        }
        Typed::Accept => {
            let Prompt { kind, text, .. } = model.prompt.take()?;
            return accept(model, kind, &text);
        }
    }
    if prompt.kind == PromptKind::Filter {
        let text = prompt.text.clone();
        set_filter(model, &text);
    }
    None
}

fn set_filter(model: &mut Model, text: &str) {
    model.filter = text.to_lowercase();
    model.overview.selected = 0;
}

fn accept(model: &mut Model, kind: PromptKind, text: &str) -> Option<Effect> {
    match kind {
        PromptKind::Filter => {
            set_filter(model, text.trim());
            None
        }
        PromptKind::Gfn => {
            let vm = model.vm.or_else(|| model.shown.summary.vms.first().map(|vm| vm.vm));
            match (figures::parse_gfn(text), vm) {
                (Some(gfn), Some(vm)) => Some(follow(model, vm, Gfn(gfn))),
                (Some(_), None) => {
                    model.notice = Some(String::from("no VM has been seen yet"));
                    None
                }
                (None, _) => {
                    model.notice = Some(format!("{text:?} is no gfn: write 0x400 or 1024"));
                    None
                }
            }
        }
        PromptKind::Time => {
            let target = target_time(model, text);
            if target.is_none() {
                model.notice = Some(format!("{text:?} is no time: write 12.5, 1:02.5 or 40%"));
            }
            target.map(|time| go_to_time(model, time))
        }
    }
}

fn target_time(model: &Model, text: &str) -> Option<Nanos> {
    let playback = model.shown.playback.as_ref()?;
    let length_ns = playback.end.since(playback.begin);
    let offset_ns = match text.trim().strip_suffix('%') {
        Some(percent) => {
            let percent: u64 = percent.trim().parse().ok()?;
            u64::try_from(u128::from(length_ns) * u128::from(percent.min(100)) / 100).ok()?
        }
        None => figures::parse_clock(text)?.min(length_ns),
    };
    Some(Nanos(playback.begin.0 + offset_ns))
}
