//! How things look in a terminal: colours, ages, sizes, and text that cannot take the terminal over.

use std::{borrow::Cow, time::Duration};

use anstyle::{AnsiColor, Style};
use berth_schemas::Timestamp;

/// Errors and failed states.
pub const BAD: Style = AnsiColor::Red.on_default().bold();
/// Good states.
pub const GOOD: Style = AnsiColor::Green.on_default();
/// Hints and states on the way.
pub const HINT: Style = AnsiColor::Cyan.on_default();
/// Warnings.
pub const WARN: Style = AnsiColor::Yellow.on_default();
/// What matters less.
pub const MUTED: Style = Style::new().dimmed();
/// Headings.
pub const HEAD: Style = Style::new().bold();

/// Text from elsewhere without control characters, which could move the cursor, change the title or worse.
#[must_use]
pub fn safe(text: &str) -> Cow<'_, str> {
    let bad = |c: char| {
        (c.is_control() && c != '\n' && c != '\t')
            || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    if text.contains(bad) {
        Cow::Owned(text.chars().map(|c| if bad(c) { '\u{fffd}' } else { c }).collect())
    } else {
        Cow::Borrowed(text)
    }
}

/// Text from elsewhere with its own colours taken out, for lines of logs.
#[must_use]
pub fn line(text: &str) -> String {
    safe(&anstream::adapter::strip_str(text).to_string()).replace('\n', " ")
}

/// The colour of a state's name.
#[must_use]
pub fn style_of(state: &str) -> Style {
    match state {
        "live" | "running" | "succeeded" | "healthy" => GOOD,
        "failed" | "down" | "rolled_back" | "error" | "exited" => BAD,
        "degraded" | "cancelled" | "superseded" | "warn" => WARN,
        "queued" | "fetching" | "building" | "starting" | "checking" | "switching" | "draining" => HINT,
        _ => Style::new(),
    }
}

/// A point in time as an age.
#[must_use]
pub fn ago(at: Timestamp, now: Timestamp) -> String {
    let seconds = (now.0 - at.0) / 1_000_000;
    let (amount, tail) = if seconds < 0 { (-seconds, "from now") } else { (seconds, "ago") };
    match amount {
        0..=4 => "just now".into(),
        5..=99 => format!("{amount} s {tail}"),
        100..=5_999 => format!("{} min {tail}", amount / 60),
        6_000..=172_799 => format!("{} h {tail}", amount / 3600),
        _ => format!("{} days {tail}", amount / 86_400),
    }
}

/// A number of bytes.
#[must_use]
pub fn bytes(n: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = n as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{n} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

/// A span of time.
#[must_use]
pub fn span(d: Duration) -> String {
    match d.as_secs() {
        0 if d.as_millis() < 1000 => format!("{} ms", d.as_millis()),
        0..=59 => format!("{:.1} s", d.as_secs_f64()),
        s @ 60..=3599 => format!("{} min {:02} s", s / 60, s % 60),
        s => format!("{} h {:02} min", s / 3600, s / 60 % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_from_elsewhere_controls_the_terminal() {
        assert_eq!(safe("a\x1b]0;evil\x07b"), "a\u{fffd}]0;evil\u{fffd}b");
        assert_eq!(line("\x1b[31mred\x1b[0m text\r"), "red text\u{fffd}");
        assert!(matches!(safe("plain"), Cow::Borrowed(_)));
    }

    #[test]
    fn ages_and_sizes_read_well() {
        let now = Timestamp(1_000_000_000_000);
        assert_eq!(ago(Timestamp(now.0 - 30_000_000), now), "30 s ago");
        assert_eq!(ago(Timestamp(now.0 - 7_300_000_000), now), "2 h ago");
        assert_eq!(ago(Timestamp(now.0 + 60_000_000), now), "60 s from now");
        assert_eq!((bytes(17), bytes(1_572_864)), ("17 B".into(), "1.5 MiB".into()));
        assert_eq!(span(Duration::from_millis(65_000)), "1 min 05 s");
    }
}
