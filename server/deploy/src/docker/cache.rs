//! The engine's build cache. It belongs to all users of the engine, and its records name no owner: who wants to drop
//! their own must know them by id.

use http::Method;
use serde_json::Value;

use super::client::{Docker, SLOW};
use super::engine::CacheRecord;
use super::error::EngineError;

/// Ids in one request: the filter is a part of its address.
const AT_ONCE: usize = 100;
/// Tries while the engine measures for somebody else.
const TRIES: u32 = 10;

impl Docker {
    /// Read from the raw answer: its form changed with API 1.52, and there the records come only when asked for.
    pub(super) async fn cache_records(&self) -> Result<Vec<CacheRecord>, EngineError> {
        let query = [("type", "build-cache".to_owned()), ("verbose", "1".to_owned())];
        let mut tries = 0;
        let usage = loop {
            tries += 1;
            let usage =
                self.raw_call("reading the build cache", Method::GET, "/system/df", &query, SLOW).await;
            match usage {
                // Old engines measure for one at a time and refuse the others.
                Err(error) if tries < TRIES && error.to_string().contains("already running") => {
                    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
                }
                usage => break usage?,
            }
        };
        let records = usage
            .get("BuildCache")
            .filter(|records| records.is_array())
            .or_else(|| usage.pointer("/BuildCacheUsage/Items"))
            .and_then(Value::as_array);
        Ok(records.into_iter().flatten().filter_map(record).collect())
    }

    /// The engine takes one value, as a regular expression, so several ids go as alternatives. A record that a build
    /// uses, or that another record was made from, stays unless that goes too.
    pub(super) async fn drop_cache(&self, ids: &[String]) -> Result<u64, EngineError> {
        let mut freed = 0;
        let ids: Vec<&str> = ids.iter().map(String::as_str).filter(|id| is_id(id)).collect();
        for some in ids.chunks(AT_ONCE) {
            let filter = serde_json::json!({ "id": [format!("^({})$", some.join("|"))] });
            let query = [("all", "1".to_owned()), ("filters", filter.to_string())];
            let limit = SLOW * 5;
            let pruned =
                self.raw_call("pruning the build cache", Method::POST, "/build/prune", &query, limit).await?;
            freed += pruned.get("SpaceReclaimed").and_then(Value::as_u64).unwrap_or_default();
        }
        Ok(freed)
    }
}

/// What has a meaning in a regular expression is no id.
fn is_id(id: &str) -> bool {
    (1..=64).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric())
}

fn record(value: &Value) -> Option<CacheRecord> {
    let time = |name: &str| {
        let text = value.get(name)?.as_str()?;
        text.parse::<jiff::Timestamp>().ok().map(jiff::Timestamp::as_microsecond)
    };
    let flag = |name: &str| value.get(name).and_then(Value::as_bool).unwrap_or_default();
    let created_at = time("CreatedAt").unwrap_or_default();
    Some(CacheRecord {
        id: value.get("ID")?.as_str().filter(|id| is_id(id))?.to_owned(),
        bytes: value.get("Size").and_then(Value::as_u64).unwrap_or_default(),
        in_use: flag("InUse"),
        shared: flag("Shared"),
        created_at,
        last_used_at: time("LastUsedAt").unwrap_or(created_at),
        description: value.get("Description").and_then(Value::as_str).unwrap_or_default().to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_and_what_is_no_id_is_none() {
        let value = serde_json::json!({
            "ID": "j9szcjwol4s9uf9ob4kgm6el7", "Type": "regular", "Description": "mount / from exec /bin/sh -c npm ci",
            "InUse": false, "Shared": true, "Size": 18, "CreatedAt": "2026-11-25T21:00:41.41Z",
            "LastUsedAt": "2026-11-25T21:00:41.521998593Z", "UsageCount": 1
        });
        let read = record(&value).unwrap();
        assert_eq!((read.bytes, read.shared, read.in_use), (18, true, false));
        assert_eq!(read.last_used_at - read.created_at, 111_998);
        assert!(record(&serde_json::json!({ "ID": ".*" })).is_none());
        assert!(!is_id("a|b") && !is_id("") && is_id("r31clxxhgg4u0pvmofuqpohhw"));
    }
}
