//! Durations, as options give them.

use std::time::Duration;

use jiff::SignedDuration;

/// Parses `90`, `1.5` (seconds, as flock(1) has them), `90s`, `1m 30s`, `2h`.
pub(crate) fn parse(text: &str) -> Result<Duration, String> {
    if let Ok(seconds) = text.parse::<f64>() {
        return Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string());
    }
    let signed: SignedDuration = text.parse().map_err(|_| {
        "not a duration; give seconds, or for example 500ms, 30s, 1m30s, 2h".to_owned()
    })?;
    Duration::try_from(signed).map_err(|_| "a duration is not negative".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_and_units_are_understood() {
        let cases = [
            ("0", Duration::ZERO),
            ("2", Duration::from_secs(2)),
            ("0.25", Duration::from_millis(250)),
            ("300ms", Duration::from_millis(300)),
            ("1m30s", Duration::from_secs(90)),
            ("2h", Duration::from_secs(7200)),
        ];
        for (text, duration) in cases {
            assert_eq!(parse(text), Ok(duration), "{text}");
        }
        for text in ["", "-1", "-5s", "soon", "NaN", "inf", "5 apples"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
