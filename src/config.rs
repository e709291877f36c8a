//! The settings of a manager: their defaults, their limits and their checks.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::error::Error;
use crate::key::Namespace;
use crate::observer::Observer;

/// The shortest lease that leaves room for a heartbeat to be late.
const MIN_LEASE_HEARTBEATS: u32 = 4;

/// The memory for all of them is allocated when the manager is made; a program with more
/// callers at once fails for other reasons first.
const MAX_QUEUE_CAPACITY: usize = 1 << 20;

/// A century: longer than any wait, and still within the range of the clocks.
pub(crate) const FOREVER: Duration = Duration::from_secs(100 * 365 * 86_400);

/// A day: the longest network timeout that every platform and the server accept.
const LONGEST_NETWORK: Duration = Duration::from_secs(86_400);

/// The longest time of keepalives and the most probes that Linux accepts (`MAX_TCP_KEEPIDLE`,
/// `MAX_TCP_KEEPINTVL`, `MAX_TCP_KEEPCNT`). Other systems accept them, too.
const LONGEST_KEEPALIVE: Duration = Duration::from_secs(32_767);
const MOST_KEEPALIVES: u32 = 127;

/// When to probe a silent connection. Each that is zero: the system's default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Keepalives {
    pub(crate) idle: Duration,
    pub(crate) interval: Duration,
    pub(crate) retries: u32,
}

impl Keepalives {
    /// In whole seconds, which is all that platforms and the server accept: rounded up, as
    /// zero would mean the default, and limited to what they accept.
    pub(crate) fn rounded(self) -> Keepalives {
        Keepalives {
            idle: whole_seconds(self.idle).min(LONGEST_KEEPALIVE),
            interval: whole_seconds(self.interval).min(LONGEST_KEEPALIVE),
            retries: self.retries.min(MOST_KEEPALIVES),
        }
    }
}

/// Rounded up.
fn whole_seconds(time: Duration) -> Duration {
    let part = u64::from(time.subsec_nanos() > 0);
    Duration::from_secs(time.as_secs().saturating_add(part))
}

/// Rounded up, and limited to the longest network timeout.
pub(crate) fn whole_millis(time: Duration) -> Duration {
    let time = time.min(LONGEST_NETWORK);
    let part = Duration::from_nanos(u64::from(time.subsec_nanos() % 1_000_000));
    match part.is_zero() {
        true => time,
        false => time - part + Duration::from_millis(1),
    }
}

/// A sequence's name with its schema, as the user wrote it.
#[derive(Clone)]
pub(crate) struct SequenceName(pub(crate) String);

impl SequenceName {
    /// The longest name that the server does not truncate (`NAMEDATALEN` - 1).
    const LONGEST: usize = 63;

    fn parts(&self) -> Option<(&str, &str)> {
        let fits = |part: &str| {
            !part.is_empty() && part.len() <= Self::LONGEST && !part.contains(['.', '"', '\0'])
        };
        self.0
            .split_once('.')
            .filter(|(schema, name)| fits(schema) && fits(name))
    }

    /// The schema, quoted.
    pub(crate) fn schema(&self) -> String {
        let (schema, _) = self.parts().unwrap_or_default();
        format!("\"{schema}\"")
    }
}

impl fmt::Display for SequenceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (schema, name) = self.parts().unwrap_or_default();
        write!(f, "\"{schema}\".\"{name}\"")
    }
}

#[derive(Clone)]
pub(crate) struct Settings {
    pub(crate) application_name: Option<String>,
    pub(crate) namespace: Option<Namespace>,
    pub(crate) max_locks: Option<usize>,
    pub(crate) queue_capacity: usize,
    pub(crate) heartbeat: Duration,
    pub(crate) connect_timeout: Duration,
    pub(crate) response_timeout: Duration,
    pub(crate) reconnect_min: Duration,
    pub(crate) reconnect_max: Duration,
    pub(crate) wait_while_unavailable: bool,
    pub(crate) wait_limit: Option<Duration>,
    pub(crate) warn_after: Option<Duration>,
    pub(crate) retry_min: Duration,
    pub(crate) retry_max: Duration,
    pub(crate) lease: Option<Duration>,
    pub(crate) fencing: Option<SequenceName>,
    pub(crate) tcp_user_timeout: Duration,
    pub(crate) tcp_keepalives: Keepalives,
    pub(crate) client_check_interval: Duration,
    /// How often an outage that lasts is logged as a warning.
    pub(crate) outage_warnings: Duration,
    pub(crate) observer: Option<Arc<dyn Observer>>,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            application_name: None,
            namespace: None,
            max_locks: None,
            queue_capacity: 1024,
            heartbeat: Duration::from_millis(30),
            connect_timeout: Duration::from_secs(10),
            response_timeout: Duration::from_secs(10),
            reconnect_min: Duration::from_millis(50),
            reconnect_max: Duration::from_secs(5),
            wait_while_unavailable: false,
            wait_limit: None,
            warn_after: None,
            retry_min: Duration::from_millis(1),
            retry_max: Duration::from_millis(500),
            lease: Some(Duration::from_secs(10)),
            fencing: None,
            tcp_user_timeout: Duration::from_secs(10),
            tcp_keepalives: Keepalives {
                idle: Duration::from_secs(10),
                interval: Duration::from_secs(2),
                retries: 3,
            },
            client_check_interval: Duration::from_secs(1),
            outage_warnings: Duration::from_secs(60),
            observer: None,
        }
    }
}

impl Settings {
    /// The settings, with durations limited to what the clocks can add. Refuses what cannot
    /// work, in an error that names the setter.
    pub(crate) fn checked(mut self) -> Result<Settings, Error> {
        for duration in [
            &mut self.heartbeat,
            &mut self.connect_timeout,
            &mut self.response_timeout,
            &mut self.reconnect_min,
            &mut self.reconnect_max,
            &mut self.retry_min,
            &mut self.retry_max,
        ] {
            *duration = (*duration).min(FOREVER);
        }
        self.tcp_user_timeout = whole_millis(self.tcp_user_timeout);
        self.client_check_interval = whole_millis(self.client_check_interval);
        self.tcp_keepalives = self.tcp_keepalives.rounded();
        // The server's setting has no smaller unit.
        self.lease = self
            .lease
            .map(|lease| lease - Duration::from_nanos(u64::from(lease.subsec_nanos() % 1_000_000)));
        self.check()?;
        Ok(self)
    }

    fn check(&self) -> Result<(), Error> {
        let refused = |message| Err(Error::config(message));
        if self.max_locks == Some(0) {
            return refused("max_locks must be at least 1; leave it unset for no limit");
        }
        if self.queue_capacity == 0 {
            return refused("queue_capacity must be at least 1");
        }
        if self.queue_capacity > MAX_QUEUE_CAPACITY {
            return refused("queue_capacity must be at most 2^20 (1,048,576) requests");
        }
        let nonzero = [
            (self.heartbeat, "heartbeat must be longer than zero"),
            (
                self.connect_timeout,
                "connect_timeout must be longer than zero",
            ),
            (
                self.response_timeout,
                "response_timeout must be longer than zero",
            ),
            (
                self.reconnect_min,
                "reconnect_backoff must be longer than zero",
            ),
            (self.retry_min, "retry_interval must be longer than zero"),
            (
                self.warn_after.unwrap_or(FOREVER),
                "warn_after must be longer than zero; leave it unset for no warnings",
            ),
            (
                self.wait_limit.unwrap_or(FOREVER),
                "wait_limit must be longer than zero; leave it unset for no limit",
            ),
        ];
        if let Some((_, message)) = nonzero.iter().find(|(value, _)| value.is_zero()) {
            return refused(message);
        }
        if self.reconnect_min > self.reconnect_max {
            return refused("reconnect_backoff must not have a first wait above its longest");
        }
        if self.retry_min > self.retry_max {
            return refused("retry_interval must not have a first pause above its longest");
        }
        if self
            .fencing
            .as_ref()
            .is_some_and(|name| name.parts().is_none())
        {
            return refused(
                "fencing needs the name of a sequence with its schema, such as \
                 `public.distlock_token`, without quotes",
            );
        }
        match self.lease {
            Some(lease) if lease < Duration::from_millis(1) => {
                refused("lease must be at least one millisecond long")
            }
            Some(lease) if lease < self.heartbeat.saturating_mul(MIN_LEASE_HEARTBEATS) => {
                refused("lease must be at least four heartbeats long")
            }
            // idle_session_timeout is an int of milliseconds.
            Some(lease) if i32::try_from(lease.as_millis()).is_err() => {
                refused("lease must be less than 2^31 milliseconds (24 days)")
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_sequence_is_named_with_its_schema() {
        let name = |name: &str| SequenceName(name.to_owned());
        assert_eq!(name("locks.Token").to_string(), r#""locks"."Token""#);
        assert_eq!(name("locks.token").schema(), r#""locks""#);
        let long = format!("public.{}", "x".repeat(64));
        for unfit in ["token", ".token", "locks.", "a.b.c", "a.\"b\"", &long] {
            assert!(name(unfit).parts().is_none(), "{unfit}");
        }
    }

    #[test]
    fn the_queue_has_a_greatest_capacity() {
        let with = |queue_capacity| Settings {
            queue_capacity,
            ..Settings::default()
        };
        assert!(with(MAX_QUEUE_CAPACITY).checked().is_ok());
        assert!(with(MAX_QUEUE_CAPACITY + 1).checked().is_err());
        // What the documentation says of its memory.
        let bytes = size_of::<crate::worker::request::Message>();
        assert!((50..150).contains(&bytes), "{bytes} bytes for each request");
    }

    #[test]
    fn times_of_the_network_are_rounded_up_and_cut() {
        const MS: Duration = Duration::from_millis(1);
        let rounded = |idle, retries| {
            let interval = idle;
            let keepalives = Keepalives {
                idle,
                interval,
                retries,
            };
            let keepalives = keepalives.rounded();
            assert_eq!(keepalives.idle, keepalives.interval);
            (keepalives.idle.as_secs(), keepalives.retries)
        };
        assert_eq!(rounded(Duration::ZERO, 0), (0, 0));
        assert_eq!(rounded(MS, 127), (1, 127));
        assert_eq!(rounded(1000 * MS, 128), (1, 127));
        assert_eq!(rounded(1001 * MS, 1), (2, 1));
        assert_eq!(rounded(Duration::MAX, u32::MAX), (32_767, 127));
        assert_eq!(whole_millis(Duration::ZERO), Duration::ZERO);
        assert_eq!(whole_millis(MS / 2), MS);
        assert_eq!(whole_millis(999 * MS + MS / 2), 1000 * MS);
        assert_eq!(whole_millis(Duration::MAX), LONGEST_NETWORK);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(1000) })]

        #[test]
        fn every_text_is_a_sequence_or_a_config_error(text in ".*") {
            let settings = Settings {
                fencing: Some(SequenceName(text.clone())),
                ..Settings::default()
            };
            if settings.checked().is_ok() {
                let name = SequenceName(text.clone()).to_string();
                // Two quoted names, with nothing that could end a quote early.
                prop_assert_eq!(name.matches('"').count(), 4);
                prop_assert_eq!(name.replace('"', ""), text);
            }
        }
    }
}
