//! Waiting until a record is seen where a certificate authority will look: at the zone's own servers, all of them.

use std::time::Duration;

use futures_util::future::join_all;
use hickory_proto::rr::RecordType;
use tokio::time::Instant;

use super::{
    ask::{NoAnswer, full_name},
    record::Record,
    resolvers::{Resolvers, Server},
};

/// How long one server may take to answer.
const LIMIT: Duration = Duration::from_secs(2);
/// How soon servers are asked again, at first and at last.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(10));

/// Who shows a record.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sighting {
    /// Servers that show it.
    pub shown_by: Vec<String>,
    /// Servers that answer without it.
    pub missing_at: Vec<String>,
    /// Servers that do not answer, with why.
    pub silent: Vec<String>,
}

impl Sighting {
    /// Whether it is seen wherever somebody answers. Who does not answer us will hardly answer an authority.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        !self.shown_by.is_empty() && self.missing_at.is_empty()
    }

    /// What is not as it should be, in words.
    #[must_use]
    pub fn trouble(&self) -> String {
        let mut words = Vec::new();
        if !self.missing_at.is_empty() {
            words.push(format!("not shown by {}", self.missing_at.join(", ")));
        }
        if !self.silent.is_empty() {
            words.push(format!("no answer from {}", self.silent.join(", ")));
        }
        if words.is_empty() {
            words.push("no name server could be asked".to_owned());
        }
        words.join("; ")
    }
}

/// Looks once.
pub(crate) async fn look(resolvers: &Resolvers, record: &Record) -> Sighting {
    let servers = match resolvers.authority(&record.name).await {
        Ok(authority) => authority.servers,
        Err(_) => Vec::new(),
    };
    let seen = look_at(&servers, record, false).await;
    if !(seen.shown_by.is_empty() && seen.missing_at.is_empty()) {
        return seen;
    }
    // The zone's servers cannot be reached from here, as behind many firewalls; the resolvers can perhaps.
    look_at(&resolvers.servers(), record, true).await
}

async fn look_at(servers: &[Server], record: &Record, recursive: bool) -> Sighting {
    let said = join_all(servers.iter().map(|server| shows(server, record, recursive))).await;
    let mut sighting = Sighting::default();
    for (server, said) in servers.iter().zip(said) {
        match said {
            Ok(true) => sighting.shown_by.push(server.label.clone()),
            Ok(false) => sighting.missing_at.push(server.label.clone()),
            Err(why) => sighting.silent.push(format!("{} ({why})", server.label)),
        }
    }
    sighting
}

async fn shows(server: &Server, record: &Record, recursive: bool) -> Result<bool, NoAnswer> {
    let name = full_name(&record.name)?;
    let answer = server.ask(&name, RecordType::TXT, recursive, LIMIT).await?;
    if !answer.is_final() {
        return Err(NoAnswer::Failed(answer.code.to_str().to_owned()));
    }
    Ok(answer.texts().contains(&record.value))
}

/// Looks until the sighting is complete or the time is over, and returns the last one.
pub(crate) async fn wait<F>(limit: Duration, mut look: impl FnMut() -> F) -> Sighting
where
    F: Future<Output = Sighting>,
{
    let deadline = Instant::now() + limit;
    let mut pause = PAUSES.0;
    loop {
        let sighting = look().await;
        if sighting.is_complete() || Instant::now() + pause > deadline {
            return sighting;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSES.1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sighting(shown: &[&str], missing: &[&str]) -> Sighting {
        let texts = |list: &[&str]| list.iter().map(|t| (*t).to_owned()).collect();
        Sighting { shown_by: texts(shown), missing_at: texts(missing), silent: Vec::new() }
    }

    #[tokio::test(start_paused = true)]
    async fn it_waits_for_the_last_server() {
        let began = Instant::now();
        let mut looks = 0;
        let seen = wait(Duration::from_secs(120), || {
            looks += 1;
            std::future::ready(if looks < 4 { sighting(&["a"], &["b"]) } else { sighting(&["a", "b"], &[]) })
        })
        .await;
        assert!(seen.is_complete());
        assert_eq!((looks, began.elapsed().as_secs()), (4, 1 + 2 + 4));
    }

    #[tokio::test(start_paused = true)]
    async fn it_gives_up_in_time_and_says_who_is_missing() {
        let began = Instant::now();
        let seen = wait(Duration::from_secs(60), async || sighting(&["a"], &["b"])).await;
        assert!(!seen.is_complete() && began.elapsed() <= Duration::from_secs(60));
        assert_eq!(seen.trouble(), "not shown by b");
    }

    #[tokio::test(start_paused = true)]
    async fn without_time_it_looks_once() {
        let mut looks = 0;
        wait(Duration::ZERO, || {
            looks += 1;
            std::future::ready(Sighting::default())
        })
        .await;
        assert_eq!(looks, 1);
        assert!(!Sighting::default().is_complete(), "nobody asked is nobody convinced");
    }
}
