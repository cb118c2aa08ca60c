//! Colours and glyphs by role. A colour never stands alone: the word beside it says the same.

use ratatui::style::{Color, Modifier, Style};
use ratatui::symbols::line;

use crate::verdict::Verdict;

/// How the screen looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Theme {
    /// For dark terminals.
    #[default]
    Dark,
    /// For light terminals.
    Light,
    /// No colour.
    Mono,
    /// No colour, ASCII only.
    Ascii,
}

impl Theme {
    /// All themes.
    pub const ALL: [Self; 4] = [Self::Dark, Self::Light, Self::Mono, Self::Ascii];

    /// The theme's name on the command line and in the configuration file.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Dark => "dark",
            Self::Light => "light",
            Self::Mono => "mono",
            Self::Ascii => "ascii",
        }
    }

    /// The theme of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|theme| theme.name().eq_ignore_ascii_case(name))
    }

    /// The same without colour.
    #[must_use]
    pub const fn without_colour(self) -> Self {
        match self {
            Self::Dark | Self::Light | Self::Mono => Self::Mono,
            Self::Ascii => Self::Ascii,
        }
    }

    /// The styles and glyphs.
    #[must_use]
    pub const fn palette(self) -> Palette {
        match self {
            Self::Dark => Palette { colours: Colours::Dark, glyphs: &Glyphs::UNICODE },
            Self::Light => Palette { colours: Colours::Light, glyphs: &Glyphs::UNICODE },
            Self::Mono => Palette { colours: Colours::None, glyphs: &Glyphs::UNICODE },
            Self::Ascii => Palette { colours: Colours::None, glyphs: &Glyphs::ASCII },
        }
    }
}

/// Styles by role, and glyphs.
#[derive(Clone, Copy, Debug)]
pub struct Palette {
    colours: Colours,
    /// What things are drawn with.
    pub glyphs: &'static Glyphs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Colours {
    Dark,
    Light,
    None,
}

/// What things are drawn with.
#[derive(Debug)]
pub struct Glyphs {
    /// Bars of a sparkline, lowest first.
    pub bars: [&'static str; 8],
    /// Shades of a heat map, nothing first.
    pub shades: [&'static str; 5],
    /// Horizontal rule.
    pub rule: &'static str,
    /// Vertical rule.
    pub column: &'static str,
    /// Beside the selected row.
    pub cursor: &'static str,
    /// Running.
    pub play: &'static str,
    /// Standing still.
    pub pause: &'static str,
    /// Between words of a status line.
    pub dot: &'static str,
    /// Not zero, but less than the smallest bar.
    pub filled: &'static str,
    /// Rest of a progress bar.
    pub empty: &'static str,
    /// An order that is known.
    pub arrow: &'static str,
    /// The step at which the page is lost.
    pub losing: &'static str,
    /// Text was cut here.
    pub cut: &'static str,
}

impl Glyphs {
    /// Glyphs every monospaced Unicode font has.
    pub const UNICODE: Self = Self {
        bars: ["▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"],
        shades: ["·", "░", "▒", "▓", "█"],
        rule: line::HORIZONTAL,
        column: line::VERTICAL,
        cursor: "▸",
        play: "▶",
        pause: "‖",
        dot: "·",
        filled: "█",
        empty: "░",
        arrow: "→",
        losing: "✗",
        cut: "…",
    };

    /// Glyphs every terminal has.
    pub const ASCII: Self = Self {
        bars: [".", ":", "-", "=", "+", "*", "%", "#"],
        shades: [".", "-", "+", "%", "#"],
        rule: "-",
        column: "|",
        cursor: ">",
        play: ">",
        pause: "=",
        dot: "-",
        filled: "#",
        empty: ".",
        arrow: "->",
        losing: "X",
        cut: "~",
    };
}

impl Palette {
    /// Ordinary text.
    #[must_use]
    pub const fn text(&self) -> Style {
        Style::new()
    }

    /// Labels and rules: there, but not in the way.
    #[must_use]
    pub const fn quiet(&self) -> Style {
        match self.colours {
            Colours::Dark => Style::new().fg(Color::Gray),
            Colours::Light => Style::new().fg(Color::DarkGray),
            Colours::None => Style::new().add_modifier(Modifier::DIM),
        }
    }

    /// Headings.
    #[must_use]
    pub const fn heading(&self) -> Style {
        match self.colours {
            Colours::Dark => Style::new().fg(Color::Cyan).add_modifier(Modifier::BOLD),
            Colours::Light => Style::new().fg(Color::Blue).add_modifier(Modifier::BOLD),
            Colours::None => Style::new().add_modifier(Modifier::BOLD),
        }
    }

    /// The row or tab that is selected.
    #[must_use]
    pub const fn selected(&self) -> Style {
        Style::new().add_modifier(Modifier::REVERSED)
    }

    /// Something to look at: loss, a frozen screen.
    #[must_use]
    pub const fn warning(&self) -> Style {
        match self.colours {
            Colours::Dark => Style::new().fg(Color::Yellow).add_modifier(Modifier::BOLD),
            Colours::Light => Style::new().fg(Color::Magenta).add_modifier(Modifier::BOLD),
            Colours::None => Style::new().add_modifier(Modifier::BOLD.union(Modifier::UNDERLINED)),
        }
    }

    /// Sparklines and bars.
    #[must_use]
    pub const fn chart(&self) -> Style {
        match self.colours {
            Colours::Dark => Style::new().fg(Color::LightBlue),
            Colours::Light => Style::new().fg(Color::Blue),
            Colours::None => Style::new(),
        }
    }

    /// A verdict.
    #[must_use]
    pub const fn verdict(&self, verdict: Verdict) -> Style {
        let colour = match (self.colours, verdict) {
            (Colours::None, Verdict::Lost) => {
                return Style::new().add_modifier(Modifier::BOLD.union(Modifier::REVERSED));
            }
            (Colours::None, Verdict::AtRisk) => return Style::new().add_modifier(Modifier::BOLD),
            (Colours::None, Verdict::Exposed | Verdict::Unknown | Verdict::Safe) => {
                return Style::new();
            }
            (Colours::Dark, Verdict::Lost) => Color::LightRed,
            (Colours::Light, Verdict::Lost) => Color::Red,
            (Colours::Dark, Verdict::AtRisk) => Color::LightMagenta,
            (Colours::Light, Verdict::AtRisk) => Color::Magenta,
            (Colours::Dark, Verdict::Exposed) => Color::Yellow,
            (Colours::Light, Verdict::Exposed) => Color::Rgb(0x8a, 0x5a, 0),
            (Colours::Dark, Verdict::Unknown) => Color::Gray,
            (Colours::Light, Verdict::Unknown) => Color::DarkGray,
            (Colours::Dark, Verdict::Safe) => Color::LightGreen,
            (Colours::Light, Verdict::Safe) => Color::Green,
        };
        let style = Style::new().fg(colour);
        if verdict.is_hazard() { style.add_modifier(Modifier::BOLD) } else { style }
    }
}
