//! The model: everything a frame depends on.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::event::{Gfn, Nanos, Setup, VmId};
use crate::feed::{Facts, Snapshot};
use crate::summary::Summary;
use crate::tui::palette::{Palette, Theme};
use crate::verdict::{Finding, PageRange, RuleId, Window};

/// Everything a frame depends on.
#[derive(Clone, Debug)]
pub struct Model {
    /// What the pipeline was told.
    pub setup: Arc<Setup>,
    /// What does not change during the session.
    pub facts: Facts,
    /// The snapshot on screen.
    pub shown: Arc<Snapshot>,
    /// The newest snapshot; another than `shown` only while frozen.
    pub newest: Arc<Snapshot>,
    /// The summary some seconds of trace time before the one shown: what happened since is a rate.
    pub earlier: VecDeque<Arc<Summary>>,
    /// Whether new snapshots are put on screen.
    pub flow: Flow,
    /// Columns and rows of the terminal.
    pub size: (u16, u16),
    /// Styles and glyphs.
    pub palette: Palette,
    /// The tab on screen.
    pub tab: Tab,
    /// What lies over the tab, the last on top.
    pub overlays: Vec<Overlay>,
    /// The overview's state.
    pub overview: Overview,
    /// The memory map's state.
    pub memory: Memory,
    /// First line of the coverage screen.
    pub coverage_scroll: usize,
    /// First line of the mmu_lock screen.
    pub lock_scroll: usize,
    /// The selected row of the VM list.
    pub vms_selected: usize,
    /// The VM that is looked at; `None`: all.
    pub vm: Option<VmId>,
    /// Words a row must contain, in lower case.
    pub filter: String,
    /// The line being typed.
    pub prompt: Option<Prompt>,
    /// Said once, in the last line, until the next key.
    pub notice: Option<String>,
    /// The moment a replay is on its way to.
    pub heading: Option<Nanos>,
    /// A replay is on its way to a hazard, which is selected when it is there.
    pub is_arriving: bool,
}

/// Whether new snapshots are put on screen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// They are.
    Flowing,
    /// They wait; analysis and recording go on.
    Frozen,
}

/// The screens one reaches by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is documented in `view`")]
pub enum Tab {
    Overview,
    Memory,
    Coverage,
    Lock,
    Vms,
}

impl Tab {
    /// All tabs, in the order of their numbers.
    pub const ALL: [Self; 5] =
        [Self::Overview, Self::Memory, Self::Coverage, Self::Lock, Self::Vms];

    /// The tab's name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Overview => "overview",
            Self::Memory => "memory",
            Self::Coverage => "coverage",
            Self::Lock => "mmu_lock",
            Self::Vms => "vms",
        }
    }

    /// The tab `by` places further, around the end.
    #[must_use]
    pub fn turned(self, by: usize) -> Self {
        Self::ALL[(self as usize + by) % Self::ALL.len()]
    }
}

/// The overview's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overview {
    /// The list at the bottom.
    pub list: List,
    /// Its selected row.
    pub selected: usize,
    /// Order of the findings.
    pub sort: Sort,
    /// Direction of that order.
    pub direction: Direction,
}

/// The lists of the overview.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the variants are their own names")]
pub enum List {
    Findings,
    Windows,
    Harvests,
}

impl List {
    /// All lists, left to right.
    pub const ALL: [Self; 3] = [Self::Findings, Self::Windows, Self::Harvests];

    /// The list's name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Findings => "hazards and exposures",
            Self::Windows => "longest windows",
            Self::Harvests => "harvests",
        }
    }
}

/// Orders of the findings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the variants are their own names")]
pub enum Sort {
    Verdict,
    Time,
    Rule,
    Page,
    Count,
}

impl Sort {
    /// All orders, as the key walks through them.
    pub const ALL: [Self; 5] = [Self::Verdict, Self::Time, Self::Rule, Self::Page, Self::Count];

    /// The order's name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Verdict => "verdict",
            Self::Time => "time",
            Self::Rule => "rule",
            Self::Page => "page",
            Self::Count => "count",
        }
    }
}

/// Direction of an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the variants are their own names")]
pub enum Direction {
    Forward,
    Backward,
}

/// The memory map's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Index into the slots shown.
    pub slot: usize,
    /// Cell of the slot's heat map.
    pub cell: usize,
    /// What the shades mean.
    pub shades: Shades,
}

/// What the shades of the memory map mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(
    missing_docs,
    reason = "the variants are the fields of `HeatCell`, and the first per second"
)]
pub enum Shades {
    Rate,
    Harvested,
    Opened,
    Windows,
    Verdict,
}

impl Shades {
    /// All, as the key walks through them.
    pub const ALL: [Self; 5] =
        [Self::Rate, Self::Harvested, Self::Opened, Self::Windows, Self::Verdict];

    /// What the shades mean.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Rate => "dirty rate",
            Self::Harvested => "pages harvested",
            Self::Opened => "times made writable",
            Self::Windows => "third-case windows",
            Self::Verdict => "worst verdict",
        }
    }
}

/// Something over a tab.
#[derive(Clone, Debug, PartialEq)]
pub enum Overlay {
    /// One finding.
    Finding {
        /// Which.
        finding: Arc<Finding>,
        /// First line.
        scroll: usize,
    },
    /// One window.
    Window {
        /// Which.
        window: Window,
        /// First line.
        scroll: usize,
    },
    /// One harvest.
    Harvest {
        /// Its id.
        id: u64,
        /// First line.
        scroll: usize,
    },
    /// A rule's page.
    Rule {
        /// Which.
        rule: RuleId,
        /// First line.
        scroll: usize,
    },
    /// One cell of the memory map, page by page.
    Range {
        /// Its pages.
        range: PageRange,
        /// Selected cell of the range.
        selected: usize,
    },
    /// The histograms of the windows.
    Windows {
        /// First line.
        scroll: usize,
    },
    /// Every event of one page.
    Page {
        /// The VM.
        vm: VmId,
        /// The page.
        gfn: Gfn,
        /// First line; [`usize::MAX`] follows the end.
        scroll: usize,
    },
    /// Keys and words.
    Help {
        /// First line.
        scroll: usize,
    },
}

/// The line being typed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prompt {
    /// What for.
    pub kind: PromptKind,
    /// The text so far.
    pub text: String,
    /// The text before, to go back to.
    pub before: String,
}

/// What a line is typed for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PromptKind {
    /// The filter of the lists.
    Filter,
    /// A gfn to follow.
    Gfn,
    /// A time to go to.
    Time,
}

impl Model {
    /// A dashboard that has just been opened.
    #[must_use]
    pub fn new(setup: Arc<Setup>, facts: Facts, first: Arc<Snapshot>, theme: Theme) -> Self {
        Self {
            setup,
            facts,
            newest: Arc::clone(&first),
            shown: first,
            earlier: VecDeque::new(),
            flow: Flow::Flowing,
            size: (80, 24),
            palette: theme.palette(),
            tab: Tab::Overview,
            overlays: Vec::new(),
            overview: Overview {
                list: List::Findings,
                selected: 0,
                sort: Sort::Verdict,
                direction: Direction::Forward,
            },
            memory: Memory { slot: 0, cell: 0, shades: Shades::Rate },
            coverage_scroll: 0,
            lock_scroll: 0,
            vms_selected: 0,
            vm: None,
            filter: String::new(),
            prompt: None,
            notice: None,
            heading: None,
            is_arriving: false,
        }
    }

    /// Time of the first record.
    #[must_use]
    pub fn begin(&self) -> Nanos {
        // A replay knows its begin before the first record was analysed.
        let playback = self.shown.playback.as_ref().map(|playback| playback.begin);
        playback.or(self.shown.summary.begin).unwrap_or_default()
    }

    /// A recording is played.
    #[must_use]
    pub fn is_replay(&self) -> bool {
        self.shown.playback.is_some()
    }
}
