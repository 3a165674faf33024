//! Reading columns into types, with an error that names the column.

use std::str::FromStr;

use berth_schemas::{Problem, Timestamp};
use serde::{Serialize, de::DeserializeOwned};
use sqlx::{Row, any::AnyRow};

use crate::error::{Result, StoreError};

/// A name that was checked before it was stored.
pub(crate) fn name<T: FromStr>(row: &AnyRow, table: &'static str, column: &'static str) -> Result<T> {
    let text: String = row.try_get(column)?;
    text.parse().map_err(|_| StoreError::corrupt(table, column, &text))
}

/// A value of an enum that is stored by its name.
pub(crate) fn word<T>(
    row: &AnyRow,
    table: &'static str,
    column: &'static str,
    parse: fn(&str) -> Option<T>,
) -> Result<T> {
    let text: String = row.try_get(column)?;
    parse(&text).ok_or_else(|| StoreError::corrupt(table, column, &text))
}

/// A value stored as JSON.
pub(crate) fn json<T: DeserializeOwned>(
    row: &AnyRow,
    table: &'static str,
    column: &'static str,
) -> Result<T> {
    let text: String = row.try_get(column)?;
    serde_json::from_str(&text).map_err(|_| StoreError::corrupt(table, column, &text))
}

/// A value stored as JSON or NULL.
pub(crate) fn json_opt<T: DeserializeOwned>(
    row: &AnyRow,
    table: &'static str,
    column: &'static str,
) -> Result<Option<T>> {
    let text: Option<String> = row.try_get(column)?;
    text.map(|t| serde_json::from_str(&t).map_err(|_| StoreError::corrupt(table, column, &t))).transpose()
}

/// A problem that was kept, or NULL.
pub(crate) fn problem(row: &AnyRow, table: &'static str, column: &'static str) -> Result<Option<Problem>> {
    Ok(json_opt::<Problem>(row, table, column)?.map(Problem::kept))
}

/// A value as JSON text.
pub(crate) fn to_json<T: Serialize>(table: &'static str, column: &'static str, value: &T) -> Result<String> {
    serde_json::to_string(value).map_err(|e| StoreError::corrupt(table, column, &e.to_string()))
}

/// A truth value, stored as 0 or 1.
pub(crate) fn flag(row: &AnyRow, column: &str) -> Result<bool> {
    Ok(row.try_get::<i64, _>(column)? != 0)
}

/// A point in time.
pub(crate) fn time(row: &AnyRow, column: &str) -> Result<Timestamp> {
    Ok(Timestamp(row.try_get(column)?))
}

/// A point in time or NULL.
pub(crate) fn time_opt(row: &AnyRow, column: &str) -> Result<Option<Timestamp>> {
    Ok(row.try_get::<Option<i64>, _>(column)?.map(Timestamp))
}
