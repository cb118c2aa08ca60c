//! The key table: dispatch and the help screen are both made from it, so they cannot drift apart.

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use crate::feed::MarkKind;
use crate::tui::model::{Model, Overlay, Tab};
use crate::tui::msg::{Msg, Step, Typed, Wish};

/// A key and what it asks for.
#[derive(Debug)]
pub struct Binding {
    /// The keys that ask for it.
    pub keys: &'static [Key],
    /// What they ask for.
    pub wish: Wish,
    /// Where they do.
    pub scope: Scope,
    /// Said on the help screen.
    pub help: &'static str,
    /// Said in the last line of the screens where it matters most; empty: nowhere.
    pub hint: &'static str,
}

/// One key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    /// A key without Control.
    Plain(KeyCode),
    /// A letter with Control.
    Ctrl(char),
}

/// Where a binding holds; also the sections of the help screen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Everywhere.
    Everywhere,
    /// Only while watching a live VM.
    Live,
    /// Only while playing a recording.
    Replay,
}

impl Scope {
    /// All scopes, in the order of the help screen.
    pub const ALL: [Self; 3] = [Self::Everywhere, Self::Live, Self::Replay];

    /// Title of the help section.
    #[must_use]
    pub const fn title(self) -> &'static str {
        match self {
            Self::Everywhere => "everywhere",
            Self::Live => "live",
            Self::Replay => "replay",
        }
    }

    /// Bindings of this scope hold now.
    #[must_use]
    pub fn holds(self, model: &Model) -> bool {
        match self {
            Self::Everywhere => true,
            Self::Live => !model.is_replay(),
            Self::Replay => model.is_replay(),
        }
    }
}

const fn ch(c: char) -> Key {
    Key::Plain(KeyCode::Char(c))
}

const fn bind(keys: &'static [Key], wish: Wish, scope: Scope, help: &'static str) -> Binding {
    Binding { keys, wish, scope, help, hint: "" }
}

impl Binding {
    const fn hinted(self, hint: &'static str) -> Self {
        Self { hint, ..self }
    }
}

use Scope::{Everywhere, Live, Replay};

/// Every key of the dashboard.
pub const BINDINGS: &[Binding] = &[
    bind(&[ch('?'), Key::Plain(KeyCode::F(1))], Wish::Help, Everywhere, "this page").hinted("help"),
    bind(&[ch('q'), Key::Ctrl('c')], Wish::Quit, Everywhere, "quit").hinted("quit"),
    bind(
        &[Key::Plain(KeyCode::Esc), Key::Plain(KeyCode::Backspace)],
        Wish::Back,
        Everywhere,
        "back; clear the filter",
    )
    .hinted("back"),
    bind(&[Key::Plain(KeyCode::Tab)], Wish::NextTab, Everywhere, "next screen").hinted("screen"),
    bind(&[Key::Plain(KeyCode::BackTab)], Wish::PreviousTab, Everywhere, "previous screen"),
    bind(&[ch('1')], Wish::GoTo(Tab::Overview), Everywhere, "overview"),
    bind(&[ch('2')], Wish::GoTo(Tab::Memory), Everywhere, "memory map"),
    bind(&[ch('3')], Wish::GoTo(Tab::Coverage), Everywhere, "coverage: probes, rules, gaps"),
    bind(&[ch('4')], Wish::GoTo(Tab::Lock), Everywhere, "mmu_lock waits"),
    bind(&[ch('5')], Wish::GoTo(Tab::Vms), Everywhere, "VMs"),
    bind(&[Key::Plain(KeyCode::Up), ch('k')], Wish::Move(Step::Up), Everywhere, "up"),
    bind(&[Key::Plain(KeyCode::Down), ch('j')], Wish::Move(Step::Down), Everywhere, "down")
        .hinted("down"),
    bind(
        &[Key::Plain(KeyCode::PageUp), Key::Ctrl('b')],
        Wish::Move(Step::PageUp),
        Everywhere,
        "page up",
    ),
    bind(
        &[Key::Plain(KeyCode::PageDown), Key::Ctrl('f')],
        Wish::Move(Step::PageDown),
        Everywhere,
        "page down",
    ),
    bind(&[ch('g'), Key::Plain(KeyCode::Home)], Wish::Move(Step::Top), Everywhere, "first"),
    bind(&[ch('G'), Key::Plain(KeyCode::End)], Wish::Move(Step::Bottom), Everywhere, "last")
        .hinted("end"),
    bind(
        &[Key::Plain(KeyCode::Left), ch('h')],
        Wish::Left,
        Everywhere,
        "previous list, range or page",
    )
    .hinted("previous"),
    bind(
        &[Key::Plain(KeyCode::Right), ch('l')],
        Wish::Right,
        Everywhere,
        "next list, range or page",
    )
    .hinted("next"),
    bind(&[Key::Plain(KeyCode::Enter)], Wish::Enter, Everywhere, "open what is selected")
        .hinted("open"),
    bind(&[ch('n')], Wish::NextHazard, Everywhere, "next hazard (replay: travel there)")
        .hinted("hazard"),
    bind(&[ch('N')], Wish::PreviousHazard, Everywhere, "previous hazard"),
    bind(&[ch('s')], Wish::Sort, Everywhere, "sort by the next column; map: next shading")
        .hinted("sort"),
    bind(&[ch('S')], Wish::ReverseSort, Everywhere, "reverse the order"),
    bind(&[ch('/')], Wish::Filter, Everywhere, "filter: words a row must contain").hinted("filter"),
    bind(&[ch(':')], Wish::GoToGfn, Everywhere, "follow one page: every event of a gfn")
        .hinted("page"),
    bind(&[ch('x')], Wish::Explain, Everywhere, "explain the rule of the selected finding")
        .hinted("rule"),
    bind(&[ch('e')], Wish::ExportLitmus, Everywhere, "export the selected finding as litmus")
        .hinted("litmus"),
    bind(&[ch('E')], Wish::ExportJson, Everywhere, "export the selected finding as JSON")
        .hinted("JSON"),
    bind(&[ch('y')], Wish::Copy, Everywhere, "copy the selected row (and print it at the end)")
        .hinted("copy"),
    bind(&[ch('w')], Wish::Windows, Everywhere, "histograms of the windows' lengths")
        .hinted("windows"),
    bind(&[Key::Ctrl('l')], Wish::Redraw, Everywhere, "draw the screen anew"),
    bind(&[Key::Ctrl('z')], Wish::Suspend, Everywhere, "suspend; fg comes back"),
    bind(&[ch(' '), ch('f')], Wish::Freeze, Live, "freeze the screen; analysis goes on")
        .hinted("freeze"),
    bind(&[ch(' '), ch('p'), ch('f')], Wish::TogglePlay, Replay, "play, pause").hinted("play"),
    bind(&[ch('+'), ch('=')], Wish::Faster, Replay, "twice as fast"),
    bind(&[ch('-')], Wish::Slower, Replay, "half as fast"),
    bind(&[ch('.')], Wish::StepForward(MarkKind::Harvest), Replay, "to the next harvest")
        .hinted("harvest"),
    bind(&[ch(',')], Wish::StepBack(MarkKind::Harvest), Replay, "to the previous harvest"),
    bind(&[ch(']')], Wish::StepForward(MarkKind::Window), Replay, "to the next window")
        .hinted("window"),
    bind(&[ch('[')], Wish::StepBack(MarkKind::Window), Replay, "to the previous window"),
    bind(&[ch('t')], Wish::GoToTime, Replay, "to a time: 12.5, 1:02.5 or 40%").hinted("time"),
    bind(&[ch('0'), ch('^')], Wish::SeekBegin, Replay, "to the begin"),
    bind(&[ch('$')], Wish::SeekEnd, Replay, "to the end"),
];

impl Key {
    /// The key as the help screen prints it.
    #[must_use]
    pub fn name(self) -> String {
        match self {
            Self::Ctrl(c) => format!("^{}", c.to_ascii_uppercase()),
            Self::Plain(KeyCode::Char(' ')) => String::from("space"),
            Self::Plain(KeyCode::Char(c)) => c.to_string(),
            Self::Plain(KeyCode::BackTab) => String::from("S-Tab"),
            Self::Plain(KeyCode::PageUp) => String::from("PgUp"),
            Self::Plain(KeyCode::PageDown) => String::from("PgDn"),
            Self::Plain(KeyCode::Backspace) => String::from("BkSp"),
            Self::Plain(code) => code.to_string(),
        }
    }

    fn of(event: KeyEvent) -> Self {
        match event.code {
            KeyCode::Char(c) if event.modifiers.contains(KeyModifiers::CONTROL) => {
                Self::Ctrl(c.to_ascii_lowercase())
            }
            code => Self::Plain(code),
        }
    }
}

/// What the last line says about keys here, the most useful first: `? help`. Made from the table, like the help screen.
#[must_use]
pub fn hints(model: &Model) -> Vec<String> {
    let bindings = useful(model).iter().filter_map(|&wish| {
        BINDINGS.iter().find(|binding| binding.wish == wish && binding.scope.holds(model))
    });
    bindings.map(|binding| format!("{} {}", binding.keys[0].name(), binding.hint)).collect()
}

/// The wishes that matter most where the user is; those of the other source are left out by their scope.
const fn useful(model: &Model) -> &'static [Wish] {
    use Wish::{
        Back, Copy, Enter, Explain, ExportJson, ExportLitmus, Filter, Freeze, GoToGfn, GoToTime,
        Help, Left, Move, NextHazard, NextTab, Quit, Right, Sort, StepForward, TogglePlay,
    };
    const HARVEST: Wish = StepForward(MarkKind::Harvest);
    match (model.overlays.as_slice().last(), model.tab) {
        (Some(Overlay::Finding { .. }), _) => {
            &[Back, Explain, Enter, ExportLitmus, ExportJson, Copy, NextHazard, Help]
        }
        (Some(Overlay::Window { .. }), _) => &[Back, Enter, Copy, Help],
        (Some(Overlay::Range { .. }), _) => &[Back, Enter, Left, Right, GoToGfn, Explain, Help],
        (Some(Overlay::Page { .. }), _) => {
            &[Back, Left, Right, GoToGfn, Move(Step::Bottom), Copy, Help]
        }
        (Some(Overlay::Windows { .. }), _) => &[Back, Copy, Help, Freeze, TogglePlay],
        (Some(Overlay::Harvest { .. } | Overlay::Rule { .. }), _) => &[Back, Copy, Help],
        (Some(Overlay::Help { .. }), _) => &[Back, Quit],
        (None, Tab::Overview) => &[
            Help,
            Quit,
            TogglePlay,
            HARVEST,
            NextHazard,
            NextTab,
            Enter,
            Filter,
            Sort,
            Freeze,
            GoToTime,
            Right,
            Wish::Windows,
        ],
        (None, Tab::Memory) => {
            &[Help, Quit, TogglePlay, HARVEST, NextTab, Enter, Sort, GoToGfn, Freeze, GoToTime]
        }
        (None, Tab::Coverage | Tab::Lock) => {
            &[Help, Quit, TogglePlay, HARVEST, NextTab, Freeze, GoToTime]
        }
        (None, Tab::Vms) => &[Help, Quit, TogglePlay, HARVEST, NextTab, Enter, Filter, Freeze],
    }
}

/// The keys behind one event: terminals send Alt and a key as Escape and the key, so that the two typed quickly cannot
/// be told from it. Nothing here is bound to Alt.
#[must_use]
pub fn apart(event: KeyEvent) -> (Option<KeyEvent>, KeyEvent) {
    if !event.modifiers.contains(KeyModifiers::ALT) {
        return (None, event);
    }
    let escape = KeyEvent::new(KeyCode::Esc, KeyModifiers::NONE);
    (Some(escape), KeyEvent { modifiers: event.modifiers - KeyModifiers::ALT, ..event })
}

/// The message a key means now, if any.
#[must_use]
pub fn message(event: KeyEvent, model: &Model) -> Option<Msg> {
    let key = Key::of(event);
    if model.prompt.is_some() {
        return typed(key).map(Msg::Typed);
    }
    BINDINGS
        .iter()
        .find(|binding| binding.keys.contains(&key) && binding.scope.holds(model))
        .map(|binding| Msg::Wish(binding.wish))
}

/// Keys while a line is being typed: those of any line editor.
fn typed(key: Key) -> Option<Typed> {
    match key {
        Key::Plain(KeyCode::Char(c)) => Some(Typed::Char(c)),
        Key::Plain(KeyCode::Backspace) | Key::Ctrl('h') => Some(Typed::Backspace),
        Key::Plain(KeyCode::Enter) => Some(Typed::Accept),
        Key::Plain(KeyCode::Esc) | Key::Ctrl('c') => Some(Typed::Cancel),
        Key::Ctrl('u') => Some(Typed::Clear),
        Key::Plain(_) | Key::Ctrl(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_key_means_two_things_in_one_scope() {
        for (index, binding) in BINDINGS.iter().enumerate() {
            for other in &BINDINGS[index + 1..] {
                let overlaps = binding.scope == other.scope
                    || binding.scope == Everywhere
                    || other.scope == Everywhere;
                for key in binding.keys {
                    assert!(
                        !(overlaps && other.keys.contains(key)),
                        "{} is both {:?} and {:?}",
                        key.name(),
                        binding.wish,
                        other.wish
                    );
                }
            }
        }
    }

    #[test]
    fn every_key_said_to_be_useful_has_a_word() {
        for tab in Tab::ALL {
            let mut model = crate::tui::sample::replay();
            model.tab = tab;
            let hints = hints(&model);
            assert!(2 < hints.len(), "{hints:?}");
            assert!(hints.iter().all(|hint| !hint.ends_with(' ')), "{hints:?}");
        }
    }

    #[test]
    fn the_keys_users_bring_are_all_there() {
        for c in "?q fsgGnNey/hjkl".chars() {
            assert!(BINDINGS.iter().any(|binding| binding.keys.contains(&ch(c))), "{c:?}");
        }
        for code in [KeyCode::Tab, KeyCode::Enter, KeyCode::Up, KeyCode::Down, KeyCode::Esc] {
            let key = Key::Plain(code);
            assert!(BINDINGS.iter().any(|binding| binding.keys.contains(&key)), "{code:?}");
        }
    }

    #[test]
    fn escape_and_a_key_typed_quickly_are_two_keys() {
        let alt = KeyEvent::new(KeyCode::Char('e'), KeyModifiers::ALT);
        let (escape, key) = apart(alt);
        assert_eq!(escape.map(|event| event.code), Some(KeyCode::Esc));
        assert_eq!(key, KeyEvent::new(KeyCode::Char('e'), KeyModifiers::NONE));
        assert_eq!(apart(key), (None, key));
    }

    #[test]
    fn help_fits_half_of_the_smallest_screen() {
        for binding in BINDINGS {
            let keys: Vec<_> = binding.keys.iter().map(|key| key.name()).collect();
            assert!(keys.join(" ").len() <= 11, "{keys:?}");
            assert!(binding.help.len() <= 64, "{}", binding.help);
        }
    }
}
