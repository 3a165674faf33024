//! Sessions as clients report them: how many there were of a release, and how many ended in a crash.

use std::collections::HashMap;

use serde_json::Value;

use super::read;

/// Sessions that are told apart by their ids; of more, each report counts as one.
const MAX_IDS: usize = 200_000;

/// Sessions of releases.
#[derive(Debug, Default)]
pub struct Sessions {
    counts: HashMap<String, SessionCount>,
    /// Whether a session crashed, by its id.
    ids: HashMap<String, bool>,
}

/// Sessions of a release.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SessionCount {
    /// All.
    pub sessions: i64,
    /// Those that crashed.
    pub crashed: i64,
}

impl Sessions {
    /// Adds a report: a session at one time of its life, or how many of which kind there were. What cannot be read counts
    /// nothing.
    pub fn add(&mut self, body: &[u8]) {
        let Ok(body) = serde_json::from_slice::<Value>(body) else { return };
        let attributes = body.get("attrs").unwrap_or(&Value::Null);
        let Some(release) = read::field(attributes, "release", 400) else { return };
        if let Some(Value::Array(sums)) = body.get("aggregates") {
            let count = self.counts.entry(release).or_default();
            for sum in sums {
                let of = |name: &str| read::int(sum.get(name)).unwrap_or(0).max(0);
                let crashed = of("crashed");
                let others = of("exited").saturating_add(of("errored")).saturating_add(of("abnormal"));
                count.crashed = count.crashed.saturating_add(crashed);
                count.sessions = count.sessions.saturating_add(others.saturating_add(crashed));
            }
            return;
        }
        let crashed = read::field(&body, "status", 40).as_deref() == Some("crashed");
        let known = match read::field(&body, "sid", 64) {
            Some(id) => {
                let full = self.ids.len() >= MAX_IDS;
                match self.ids.get_mut(&id) {
                    Some(was) => Some(std::mem::replace(was, *was || crashed)),
                    None if full => None,
                    None => {
                        self.ids.insert(id, crashed);
                        None
                    }
                }
            }
            None => None,
        };
        let count = self.counts.entry(release).or_default();
        count.sessions += i64::from(known.is_none());
        count.crashed += i64::from(crashed && known != Some(true));
    }

    /// Those of a release.
    #[must_use]
    pub fn of(&self, release: &str) -> SessionCount {
        self.counts.get(release).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_counts_once_however_often_it_is_told() {
        let mut sessions = Sessions::default();
        let told = |sid: &str, status: &str, release: &str| {
            format!("{{\"sid\":{sid:?},\"status\":{status:?},\"attrs\":{{\"release\":{release:?}}}}}")
        };
        for (sid, status) in [("a", "ok"), ("a", "crashed"), ("a", "crashed"), ("b", "ok"), ("b", "exited")] {
            sessions.add(told(sid, status, "1.0").as_bytes());
        }
        sessions.add(told("c", "crashed", "0.9").as_bytes());
        assert_eq!(sessions.of("1.0"), SessionCount { sessions: 2, crashed: 1 });
        sessions.add(
            br#"{"aggregates":[{"started":"2026-01-01T00:00:00Z","exited":7,"errored":2,"crashed":1},{"exited":"x"}],
                "attrs":{"release":"1.0"}}"#,
        );
        assert_eq!(sessions.of("1.0"), SessionCount { sessions: 12, crashed: 2 });
        for unreadable in [&b"no"[..], b"[]", b"{\"sid\":\"d\",\"status\":\"ok\"}"] {
            sessions.add(unreadable);
        }
        assert_eq!(sessions.of("0.9"), SessionCount { sessions: 1, crashed: 1 });
        assert_eq!(sessions.of("2.0"), SessionCount::default());
    }
}
