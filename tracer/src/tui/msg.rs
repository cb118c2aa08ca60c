//! Messages (what happened on this side of the screen) and effects (what the loop then does for us).

use std::sync::Arc;

use crate::feed::{MarkKind, Request, Snapshot};
use crate::tui::model::Tab;
use crate::verdict::Finding;

/// What happened. Kernel events are not messages: they arrive as a new [`Snapshot`].
#[derive(Clone, Debug)]
pub enum Msg {
    /// A new snapshot.
    Snapshot(Arc<Snapshot>),
    /// The terminal's size, columns and rows.
    Resize(u16, u16),
    /// The user wishes.
    Wish(Wish),
    /// A key pressed while a line of text is being typed.
    Typed(Typed),
    /// The loop says how an effect went.
    Told(String),
    /// Mouse wheel, rows down (negative: up).
    Scroll(i32),
    /// A row of the overview's list was clicked.
    Select(usize),
}

/// A wish: what a key can ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the key table explains each in the words of the help screen")]
pub enum Wish {
    Quit,
    Suspend,
    Redraw,
    Help,
    Windows,
    Back,
    NextTab,
    PreviousTab,
    GoTo(Tab),
    Move(Step),
    Left,
    Right,
    Enter,
    Sort,
    ReverseSort,
    NextHazard,
    PreviousHazard,
    Freeze,
    Filter,
    GoToGfn,
    Explain,
    ExportLitmus,
    ExportJson,
    Copy,
    TogglePlay,
    Faster,
    Slower,
    StepForward(MarkKind),
    StepBack(MarkKind),
    GoToTime,
    SeekBegin,
    SeekEnd,
}

/// How far to move in a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the variants are their own names")]
pub enum Step {
    Up,
    Down,
    PageUp,
    PageDown,
    Top,
    Bottom,
}

/// A key pressed while typing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Typed {
    /// A character.
    Char(char),
    /// Take the last character back.
    Backspace,
    /// Take everything back.
    Clear,
    /// Done.
    Accept,
    /// Never mind.
    Cancel,
}

/// What the loop does for the model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// End the dashboard.
    Quit,
    /// Stop the process until the shell continues it.
    Suspend,
    /// Draw every cell anew.
    Redraw,
    /// Ask the analysis thread.
    Ask(Request),
    /// Write a finding to a file.
    Export(Arc<Finding>, ExportFormat),
    /// Put text into the clipboard, and print it when the dashboard has ended.
    Copy(String),
}

/// Forms of a finding's export.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExportFormat {
    /// A litmus file.
    Litmus,
    /// JSON.
    Json,
}
