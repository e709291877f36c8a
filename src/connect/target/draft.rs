//! Translates what the caller gives into the driver's settings, before the manager's own
//! defaults are applied.

use std::path::PathBuf;
use std::time::Duration;

use postgres::config::{
    ChannelBinding, LoadBalanceHosts, SslMode, SslNegotiation, TargetSessionAttrs,
};

use super::endpoint::{Endpoint, Lists};
use crate::config::Keepalives;
use crate::connect::dsn::passfile::{self, Passfile};
use crate::connect::dsn::{Environment, Parameters, TlsParameters, Value};
use crate::error::Error;

/// The driver's default, which stands for "unset".
const KEEPALIVES_IDLE_UNSET: Duration = Duration::from_secs(2 * 60 * 60);

/// What a manager connects to: a [connection string](crate#connection-strings), or a
/// [`postgres::Config`]. [`Manager::builder`](crate::Manager::builder) accepts either.
#[derive(Clone)]
pub struct ConnectConfig(Source);

#[derive(Clone)]
enum Source {
    Text(String),
    Config(Box<postgres::Config>),
}

impl<T: AsRef<str> + ?Sized> From<&T> for ConnectConfig {
    fn from(dsn: &T) -> Self {
        ConnectConfig(Source::Text(dsn.as_ref().to_owned()))
    }
}

impl From<postgres::Config> for ConnectConfig {
    fn from(config: postgres::Config) -> Self {
        ConnectConfig(Source::Config(Box::new(config)))
    }
}

impl std::fmt::Debug for ConnectConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // It may hold a password, whose place in a malformed string is unknown.
        f.debug_struct("ConnectConfig").finish_non_exhaustive()
    }
}

/// The settings that were given. One that was not is `None`, and gets its default later.
pub(super) struct Draft {
    /// With the login, and all else for which the driver has a default.
    pub(super) config: postgres::Config,
    pub(super) endpoints: Vec<Endpoint>,
    pub(super) tls: TlsParameters,
    /// True if a minimum TLS version was given, which only this crate's own TLS respects.
    pub(super) has_tls_version: bool,
    pub(super) connect_timeout: Option<Duration>,
    pub(super) network: Network,
}

/// How a silent network is detected. Zero means the system's default.
#[derive(Default)]
pub(super) struct Network {
    pub(super) tcp_user_timeout: Option<Duration>,
    idle: Option<Duration>,
    interval: Option<Duration>,
    retries: Option<u32>,
}

impl Network {
    pub(super) fn keepalives(&self, default: Keepalives) -> Keepalives {
        Keepalives {
            idle: self.idle.unwrap_or(default.idle),
            interval: self.interval.unwrap_or(default.interval),
            retries: self.retries.unwrap_or(default.retries),
        }
    }
}

impl Draft {
    pub(super) fn new(
        source: &ConnectConfig,
        environment: Option<Environment<'_>>,
    ) -> Result<Draft, Error> {
        let (given, mut parameters) = match &source.0 {
            Source::Text(dsn) => (postgres::Config::new(), Parameters::read(dsn)?),
            Source::Config(config) => ((**config).clone(), Parameters::default()),
        };
        parameters.fill(environment)?;
        let mut tls = parameters.take_tls();
        if let Source::Config(config) = &source.0 {
            // The driver has no way to leave these unset.
            for fixed in ["sslnegotiation", "channel_binding", "load_balance_hosts"] {
                parameters.take(fixed);
            }
            for fixed in ["target_session_attrs", "keepalives"] {
                parameters.take(fixed);
            }
            tls.sslmode = Some(mode_of(config).to_owned());
        }
        parameters.check()?;
        let endpoints = Lists::new(&given, &mut parameters)?.endpoints()?;
        let mut draft = Draft {
            config: shared(&given),
            endpoints,
            tls,
            has_tls_version: parameters.take("ssl_min_protocol_version").is_some(),
            connect_timeout: given.get_connect_timeout().copied(),
            network: network_of(&given),
        };
        draft.connect_timeout = draft.connect_timeout.filter(|timeout| !timeout.is_zero());
        draft.apply(&mut parameters)?;
        draft.log_in(&mut parameters, environment.is_some())?;
        Ok(draft)
    }

    /// Sets what is not set yet, except the login.
    fn apply(&mut self, parameters: &mut Parameters) -> Result<(), Error> {
        let config = &mut self.config;
        let name = parameters.take_text("application_name");
        let name = name.or(parameters.take_text("fallback_application_name"));
        if let Some(name) = name.filter(|_| config.get_application_name().is_none()) {
            config.application_name(&name);
        }
        let options = parameters.take_text("options");
        if let Some(options) = options.filter(|_| config.get_options().is_none()) {
            config.options(&options);
        }
        if let Some(value) = parameters.take("channel_binding") {
            config.channel_binding(value.one_of(&[
                ("disable", ChannelBinding::Disable),
                ("prefer", ChannelBinding::Prefer),
                ("require", ChannelBinding::Require),
            ])?);
        }
        if let Some(value) = parameters.take("load_balance_hosts") {
            config.load_balance_hosts(value.one_of(&[
                ("disable", LoadBalanceHosts::Disable),
                ("random", LoadBalanceHosts::Random),
            ])?);
        }
        if let Some(value) = parameters.take("sslnegotiation") {
            config.ssl_negotiation(value.one_of(&[
                ("postgres", SslNegotiation::Postgres),
                ("direct", SslNegotiation::Direct),
            ])?);
        }
        if let Some(value) = parameters.take("target_session_attrs") {
            config.target_session_attrs(session_attrs(&value)?);
        }
        if config.get_target_session_attrs() == TargetSessionAttrs::ReadOnly {
            return Err(Error::config(READ_ONLY));
        }
        if let Some(value) = parameters.take("keepalives") {
            config.keepalives(value.integer()? != 0);
        }
        self.apply_times(parameters)
    }

    fn apply_times(&mut self, parameters: &mut Parameters) -> Result<(), Error> {
        let mut natural = |name: &str| -> Result<Option<u32>, Error> {
            let value = parameters.take(name);
            let number = value.map(|value| value.integer()).transpose()?;
            // As in libpq, below zero means zero.
            Ok(number.map(|number| u32::try_from(number).unwrap_or(0)))
        };
        let seconds = |number: u32| Duration::from_secs(number.into());
        let network = &mut self.network;
        let timeout = natural("connect_timeout")?.filter(|seconds| *seconds > 0);
        self.connect_timeout = self.connect_timeout.or(timeout.map(seconds));
        let silence = natural("tcp_user_timeout")?.map(|ms| Duration::from_millis(ms.into()));
        network.tcp_user_timeout = network.tcp_user_timeout.or(silence);
        network.idle = network.idle.or(natural("keepalives_idle")?.map(seconds));
        let interval = natural("keepalives_interval")?.map(seconds);
        network.interval = network.interval.or(interval);
        network.retries = network.retries.or(natural("keepalives_count")?);
        Ok(())
    }

    /// Sets the user, the database and the password.
    fn log_in(&mut self, parameters: &mut Parameters, by_default: bool) -> Result<(), Error> {
        let config = &mut self.config;
        let asked = parameters.take_text("user");
        let user = match config.get_user().map(str::to_owned).or(asked) {
            Some(user) => user,
            None => whoami::username().map_err(|error| {
                let message = "no user is given, and the name of the operating system's user \
                     cannot be determined";
                Error::config(message).caused_by(error)
            })?,
        };
        let asked = parameters.take_text("dbname");
        let dbname = config.get_dbname().map(str::to_owned).or(asked);
        let dbname = dbname.unwrap_or_else(|| user.clone());
        config.user(&user).dbname(&dbname);
        let password = parameters.take_text("password");
        let password = password.filter(|_| config.get_password().is_none());
        if let Some(password) = password {
            config.password(password);
        }
        let file = parameters.take_text("passfile").map(PathBuf::from);
        let file = file.or_else(|| passfile::default_file().filter(|_| by_default));
        let Some(file) = file.filter(|_| config.get_password().is_none()) else {
            return Ok(());
        };
        let passwords = Passfile::read(&file);
        for endpoint in &mut self.endpoints {
            let name = endpoint.name();
            endpoint.password = passwords.password(&name, endpoint.port, &dbname, &user);
        }
        Ok(())
    }
}

const READ_ONLY: &str = "locks need a server that accepts writes: target_session_attrs must be any, read-write or primary";

fn session_attrs(value: &Value) -> Result<TargetSessionAttrs, Error> {
    match &*value.text {
        "any" => Ok(TargetSessionAttrs::Any),
        "read-write" | "primary" => Ok(TargetSessionAttrs::ReadWrite),
        "read-only" | "standby" | "prefer-standby" => Err(value.refused(READ_ONLY)),
        _ => Err(value.refused("it must be any, read-write or primary")),
    }
}

/// libpq's name for the driver's mode.
fn mode_of(config: &postgres::Config) -> &'static str {
    match config.get_ssl_mode() {
        SslMode::Disable => "disable",
        SslMode::Prefer => "prefer",
        // An unknown mode may only be made stricter, never laxer.
        _ => "require",
    }
}

fn network_of(config: &postgres::Config) -> Network {
    let idle = config.get_keepalives_idle();
    Network {
        tcp_user_timeout: config.get_tcp_user_timeout().copied(),
        idle: (idle != KEEPALIVES_IDLE_UNSET).then_some(idle),
        interval: config.get_keepalives_interval(),
        retries: config.get_keepalives_retries(),
    }
}

/// New settings with what all hosts share of `config`, except the times: the driver's settings
/// can be added to, but not removed from.
pub(super) fn shared(config: &postgres::Config) -> postgres::Config {
    let mut rest = postgres::Config::new();
    rest.ssl_mode(config.get_ssl_mode())
        .ssl_negotiation(config.get_ssl_negotiation())
        .keepalives(config.get_keepalives())
        .target_session_attrs(config.get_target_session_attrs())
        .channel_binding(config.get_channel_binding())
        .load_balance_hosts(config.get_load_balance_hosts());
    if let Some(user) = config.get_user() {
        rest.user(user);
    }
    if let Some(password) = config.get_password() {
        rest.password(password);
    }
    if let Some(name) = config.get_dbname() {
        rest.dbname(name);
    }
    if let Some(options) = config.get_options() {
        rest.options(options);
    }
    if let Some(name) = config.get_application_name() {
        rest.application_name(name);
    }
    rest
}
