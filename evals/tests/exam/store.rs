//! The daemon's store as text, to see whether anything was written.

use std::{collections::BTreeMap, path::Path};

use sqlx::{AssertSqlSafe, Connection as _, Row as _, SqliteConnection, sqlite::SqliteConnectOptions};

/// Columns that change by being looked at.
const VOLATILE: &[&str] = &["last_used_at"];
/// Tables that the daemon writes by itself at its own times.
// The audit log has every call, also of readers, and with it the counters of row ids move.
const OWN: &[&str] = &[
    "requests",
    "log_lines",
    "log_positions",
    "_sqlx_migrations",
    "event_cursors",
    "calls",
    "sqlite_sequence",
];

/// Every table with its rows.
pub(crate) type Dump = BTreeMap<String, Vec<String>>;

/// Reads it while the daemon runs.
pub(crate) async fn dump(data: &Path) -> Dump {
    let options = SqliteConnectOptions::new().filename(data.join("berth.db")).read_only(true);
    let mut store = SqliteConnection::connect_with(&options).await.expect("the store opens");
    let names = sqlx::query("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")
        .fetch_all(&mut store)
        .await
        .expect("the tables");
    let mut dump = Dump::new();
    for table in names.iter().map(|row| row.get::<String, _>(0)).filter(|t| !OWN.contains(&t.as_str())) {
        let columns = sqlx::query(AssertSqlSafe(format!("SELECT name FROM pragma_table_info('{table}')")))
            .fetch_all(&mut store)
            .await
            .expect("the columns");
        let columns: Vec<String> = columns
            .iter()
            .map(|row| row.get::<String, _>(0))
            .filter(|c| !VOLATILE.contains(&c.as_str()))
            .map(|c| format!("quote(\"{c}\")"))
            .collect();
        let sql = format!("SELECT {} FROM \"{table}\" ORDER BY 1", columns.join(" || '|' || "));
        let rows = sqlx::query(AssertSqlSafe(sql)).fetch_all(&mut store).await.expect("the rows");
        dump.insert(table, rows.iter().map(|row| row.get::<String, _>(0)).collect());
    }
    dump
}

/// Tables that differ.
pub(crate) fn changed(before: &Dump, after: &Dump) -> Vec<String> {
    let tables = before.keys().chain(after.keys()).collect::<std::collections::BTreeSet<_>>();
    tables.into_iter().filter(|t| before.get(*t) != after.get(*t)).cloned().collect()
}

/// Lets a token have expired, behind the daemon's back.
pub(crate) async fn expire(data: &Path, token: &str) {
    let options = SqliteConnectOptions::new().filename(data.join("berth.db"));
    let mut store = SqliteConnection::connect_with(&options).await.expect("the store opens");
    let done = sqlx::query("UPDATE tokens SET expires_at = 1 WHERE name = ?1").bind(token.to_owned());
    let done = done.execute(&mut store).await.expect("the token to be changed");
    assert_eq!(done.rows_affected(), 1, "{token}");
}
