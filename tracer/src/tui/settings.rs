//! How the dashboard is set up: flags over environment over configuration file over what fits the terminal.

use serde::Deserialize;
use thiserror::Error;

use crate::tui::palette::Theme;
use crate::tui::terminal::Mouse;

/// The resolved settings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// Colours and glyphs.
    pub theme: Theme,
    /// Whether the mouse is ours.
    pub mouse: Mouse,
}

/// What is wrong with a configuration file.
#[derive(Debug, Error)]
pub enum SettingsError {
    /// Not TOML, an unknown key, or a value of the wrong type.
    #[error("configuration")]
    Syntax(#[source] toml::de::Error),
    /// No theme has that name.
    #[error("configuration: theme {0:?} is none of dark, light, mono, ascii")]
    Theme(String),
}

/// `config.toml`, as written: every key may be missing, none may be unknown.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct File {
    theme: Option<String>,
    mouse: Option<bool>,
}

/// What the environment says about terminals in general.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Environment {
    /// `NO_COLOR`.
    pub no_color: Option<String>,
    /// `TERM`.
    pub term: Option<String>,
    /// The first of `LC_ALL`, `LC_CTYPE` and `LANG` that is set and not empty.
    pub locale: Option<String>,
}

impl Settings {
    /// Resolves the settings; `theme` is the flag (or its environment variable), `file` the text of `config.toml`.
    ///
    /// # Errors
    /// When the file is not what it should be.
    pub fn resolve(
        theme: Option<Theme>,
        file: Option<&str>,
        environment: &Environment,
    ) -> Result<Self, SettingsError> {
        let file: File = match file {
            Some(text) => toml::from_str(text).map_err(SettingsError::Syntax)?,
            None => File::default(),
        };
        let from_file = match file.theme {
            Some(name) => Some(Theme::from_name(&name).ok_or(SettingsError::Theme(name))?),
            None => None,
        };
        let chosen = theme.or(from_file);
        let chosen = match chosen {
            Some(theme) => theme,
            None if environment.lacks_unicode() => Theme::Ascii,
            None => Theme::Dark,
        };
        // A flag on the command line is the more particular wish [1].
        //
        // [1]: https://no-color.org, "Command-line software which adds ANSI color": user-level configuration and
        //      command-line options should override NO_COLOR.
        let theme = if theme.is_none() && environment.lacks_colour() {
            chosen.without_colour()
        } else {
            chosen
        };
        let mouse = if file.mouse == Some(true) { Mouse::Captured } else { Mouse::Ignored };
        Ok(Self { theme, mouse })
    }
}

impl Environment {
    fn lacks_colour(&self) -> bool {
        let is_set = |value: &Option<String>| value.as_ref().is_some_and(|text| !text.is_empty());
        is_set(&self.no_color) || self.term.as_deref() == Some("dumb")
    }

    fn lacks_unicode(&self) -> bool {
        // No locale at all is what `sudo` and containers leave; terminals have long been UTF-8 there.
        self.locale.as_ref().is_some_and(|locale| {
            let locale = locale.to_ascii_uppercase();
            !locale.contains("UTF-8") && !locale.contains("UTF8")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(theme: Option<Theme>, file: &str, environment: &Environment) -> Theme {
        Settings::resolve(theme, Some(file), environment).expect("valid").theme
    }

    #[test]
    fn flags_win_over_the_file_and_the_file_over_the_terminal() {
        let environment = Environment::default();
        assert_eq!(check(None, "", &environment), Theme::Dark);
        assert_eq!(check(None, "theme = \"light\"", &environment), Theme::Light);
        assert_eq!(check(Some(Theme::Mono), "theme = \"light\"", &environment), Theme::Mono);
    }

    #[test]
    fn no_color_takes_colour_from_everything_but_a_flag() {
        let no_color = Environment { no_color: Some(String::from("1")), ..Environment::default() };
        assert_eq!(check(None, "theme = \"light\"", &no_color), Theme::Mono);
        assert_eq!(check(Some(Theme::Light), "", &no_color), Theme::Light);
        let empty = Environment { no_color: Some(String::new()), ..Environment::default() };
        assert_eq!(check(None, "", &empty), Theme::Dark);
    }

    #[test]
    fn a_locale_without_unicode_gives_ascii() {
        let c = Environment { locale: Some(String::from("C")), ..Environment::default() };
        assert_eq!(check(None, "", &c), Theme::Ascii);
        let utf8 = Environment { locale: Some(String::from("C.utf8")), ..Environment::default() };
        assert_eq!(check(None, "", &utf8), Theme::Dark);
    }

    #[test]
    fn mistakes_in_the_file_are_told() {
        let environment = Environment::default();
        let error = |text| {
            let error = Settings::resolve(None, Some(text), &environment).expect_err("invalid");
            match error {
                SettingsError::Syntax(source) => source.message().to_owned(),
                other @ SettingsError::Theme(_) => other.to_string(),
            }
        };
        assert_eq!(
            error("theme = \"blue\""),
            "configuration: theme \"blue\" is none of dark, light, mono, ascii"
        );
        assert_eq!(error("thme = \"dark\""), "unknown field `thme`, expected `theme` or `mouse`");
    }
}
