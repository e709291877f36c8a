//! What the server says of itself, of its limits and of this role.

use postgres::{Client, Row};

use super::report::Report;
use crate::exit::Failure;

/// Fewer connections than this are few: each program that locks needs one.
const FEW_CONNECTIONS: i64 = 3;

/// The manager's and the client's own.
const OURS: i64 = 2;

/// Beyond this part of the lock table, in percent, another program's locks may fill it.
const FULL: i64 = 90;

/// A connect's first statements may take so long, in milliseconds.
const CONNECT_STATEMENT: i64 = 100;

pub(super) struct Facts(Row);

/// `$1` is the process of the manager's session. Counts are as wide as the driver's types.
const QUESTIONS: &str = "\
    SELECT current_setting('server_version') AS version, session_user::text AS role, \
    current_database()::text AS database, \
    (SELECT client_addr IS NULL FROM pg_stat_activity WHERE pid = $1) AS is_local, \
    (SELECT ssl FROM pg_stat_ssl WHERE pid = $1) AS ssl, \
    r.rolsuper OR (pg_has_role('pg_signal_backend', 'USAGE') \
        AND has_function_privilege('pg_terminate_backend(int4, int8)', 'EXECUTE')) AS may_evict, \
    pg_has_role('pg_read_all_stats', 'USAGE') AS sees_all, \
    s.locks * (s.connections + s.prepared) AS lock_room, \
    (SELECT count(*) FROM pg_locks WHERE NOT fastpath AND mode <> 'SIReadLock') AS lock_count, \
    s.connections - CASE WHEN r.rolsuper THEN 0 ELSE s.reserved END AS server_limit, \
    (SELECT count(*) FROM clients) AS server_used, \
    CASE WHEN r.rolsuper THEN -1 ELSE r.rolconnlimit END::int8 AS role_limit, \
    (SELECT count(*) FROM clients WHERE usesysid = r.oid) AS role_used, \
    CASE WHEN r.rolsuper THEN -1 ELSE d.datconnlimit END::int8 AS database_limit, \
    (SELECT count(*) FROM clients WHERE datid = d.oid) AS database_used, \
    s.statement_timeout, s.idle_session_timeout \
    FROM (SELECT \
        current_setting('max_locks_per_transaction')::int8 AS locks, \
        current_setting('max_connections')::int8 AS connections, \
        current_setting('max_prepared_transactions')::int8 AS prepared, \
        current_setting('superuser_reserved_connections')::int8 \
            + coalesce(current_setting('reserved_connections', true), '0')::int8 AS reserved, \
        (SELECT setting::int8 FROM pg_settings WHERE name = 'statement_timeout') \
            AS statement_timeout, \
        (SELECT setting::int8 FROM pg_settings WHERE name = 'idle_session_timeout') \
            AS idle_session_timeout) s, \
    pg_roles r, pg_database d \
    WHERE r.rolname = session_user AND d.datname = current_database()";

/// Those of other roles have no `backend_type` for a role without privileges.
const CLIENTS: &str = "WITH clients AS (SELECT * FROM pg_stat_activity WHERE datid IS NOT NULL \
    AND coalesce(backend_type, 'client backend') = 'client backend') ";

pub(super) fn read(client: &mut Client, manager: i32) -> Result<Facts, postgres::Error> {
    let row = client.query_one(&format!("{CLIENTS}{QUESTIONS}"), &[&manager])?;
    Ok(Facts(row))
}

impl Facts {
    pub(super) fn judge(&self, report: &mut Report) -> Result<(), Failure> {
        report.good(
            "server",
            &format!(
                "PostgreSQL {}, database {}, role {}",
                self.text("version"),
                self.text("database"),
                self.text("role"),
            ),
        )?;
        self.judge_tls(report)?;
        self.judge_rights(report)?;
        self.judge_lock_table(report)?;
        self.judge_connections(report)?;
        self.judge_timeouts(report)
    }

    fn judge_tls(&self, report: &mut Report) -> Result<(), Failure> {
        match (self.is("is_local"), self.is("ssl")) {
            (true, _) => report.good("TLS", "off, and not needed: a unix socket"),
            (false, true) => report.good("TLS", "on"),
            (false, false) => report.note(
                "TLS",
                "off: others on the way see all, and the password is safe only with SCRAM; \
                 sslmode=verify-full in the connection string turns it on",
            ),
        }
    }

    fn judge_rights(&self, report: &mut Report) -> Result<(), Failure> {
        match self.is("may_evict") {
            true => report.good("evict", "this role may end sessions of others")?,
            false => report.note(
                "evict",
                "this role may end its own sessions alone; GRANT pg_signal_backend TO it for \
                 those of others",
            )?,
        }
        match self.is("sees_all") {
            true => report.good("holders", "this role sees sessions of all roles"),
            false => report.note(
                "holders",
                "this role sees the addresses of its own sessions alone; GRANT pg_read_all_stats TO it \
                 for those of others",
            ),
        }
    }

    fn judge_lock_table(&self, report: &mut Report) -> Result<(), Failure> {
        let (used, room) = (self.number("lock_count"), self.number("lock_room"));
        let says = format!("{used} of about {room} locks are used");
        match used * 100 < room * FULL {
            true => report.good("lock table", &says),
            false => report.fault(
                "lock table",
                &format!("{says}; raise max_locks_per_transaction, or hold fewer locks"),
            ),
        }
    }

    fn judge_connections(&self, report: &mut Report) -> Result<(), Failure> {
        // Each with what to raise. No limit: -1, which a database that is being dropped has as -2.
        let limits = [
            ("server", "max_connections"),
            ("role", "the CONNECTION LIMIT of the role"),
            ("database", "the CONNECTION LIMIT of the database"),
        ];
        let left = |(whose, remedy): (&'static str, &'static str)| {
            let limit = self.number(&format!("{whose}_limit"));
            let used = self.number(&format!("{whose}_used")) - OURS;
            (limit >= 0).then(|| (limit - used, limit, whose, remedy))
        };
        let least = limits.into_iter().filter_map(left).min();
        let Some((left, limit, whose, remedy)) = least else {
            return Ok(());
        };
        let says = format!("{left} of the {whose}'s {limit} are left");
        match left >= FEW_CONNECTIONS {
            true => report.good("connections", &says),
            false => report.fault(
                "connections",
                &format!("{says}: each program that locks needs one; raise {remedy}"),
            ),
        }
    }

    fn judge_timeouts(&self, report: &mut Report) -> Result<(), Failure> {
        let statement = self.number("statement_timeout");
        if (1..CONNECT_STATEMENT).contains(&statement) {
            return report.fault(
                "timeouts",
                &format!(
                    "statement_timeout is {statement} ms, which the first statements of a connect \
                     come under; raise it for this role"
                ),
            );
        }
        let shown = |ms: i64| match ms {
            0 => "off".to_owned(),
            ms => format!("{ms} ms"),
        };
        let says = format!(
            "statement_timeout is {}, idle_session_timeout {}; a manager sets its own",
            shown(statement),
            shown(self.number("idle_session_timeout")),
        );
        report.good("timeouts", &says)
    }

    fn text(&self, column: &str) -> &str {
        self.0.try_get(column).unwrap_or("?")
    }

    fn is(&self, column: &str) -> bool {
        self.0.try_get(column).unwrap_or(false)
    }

    fn number(&self, column: &str) -> i64 {
        self.0.try_get(column).unwrap_or(0)
    }
}
