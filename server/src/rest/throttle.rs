//! Slows down whoever tries tokens: failures are counted per client address.
//!
//! Tokens are too long to be guessed; what the limit protects is the store's time and the log. A token that
//! was good a while ago is looked up even when its address is over the limit, so that one program with an old
//! token does not lock out its neighbours behind the same address.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use sha2::{Digest as _, Sha256};

/// Failures allowed per address within [`WINDOW`].
const FAILURES: u32 = 20;
/// Time within which failures count.
const WINDOW: Duration = Duration::from_secs(60);
/// Addresses and tokens remembered at most; when full, all are forgotten.
const REMEMBERED: usize = 10_000;

/// Counts failures.
#[derive(Debug, Default)]
pub struct Throttle(Mutex<Memory>);

#[derive(Debug, Default)]
struct Memory {
    failures: HashMap<IpAddr, (Instant, u32)>,
    good: HashMap<[u8; 32], Instant>,
}

impl Throttle {
    /// Whether a token from this address may be looked up; if not, how long to wait.
    ///
    /// # Errors
    /// The time after which failures are forgotten.
    pub fn admit(&self, address: IpAddr, token: &str, now: Instant) -> Result<(), Duration> {
        let mut memory = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(&(since, count)) = memory.failures.get(&address) else { return Ok(()) };
        let age = now.saturating_duration_since(since);
        if age >= WINDOW {
            memory.failures.remove(&address);
            return Ok(());
        }
        if count < FAILURES || memory.good.contains_key(&digest(token)) {
            return Ok(());
        }
        Err(WINDOW - age)
    }

    /// Remembers how a look-up went.
    pub fn record(&self, address: IpAddr, token: &str, good: bool, now: Instant) {
        let mut memory = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if good {
            if memory.good.len() >= REMEMBERED {
                memory.good.clear();
            }
            memory.good.insert(digest(token), now);
            return;
        }
        memory.good.remove(&digest(token));
        if memory.failures.len() >= REMEMBERED {
            memory.failures.clear();
        }
        let entry = memory.failures.entry(address).or_insert((now, 0));
        entry.1 = entry.1.saturating_add(1);
    }
}

fn digest(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guessing_is_slowed_but_a_good_token_passes() {
        let throttle = Throttle::default();
        let (here, there): (IpAddr, IpAddr) = ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());
        let start = Instant::now();
        throttle.record(here, "good", true, start);
        for _ in 0..FAILURES {
            assert!(throttle.admit(here, "guess", start).is_ok());
            throttle.record(here, "guess", false, start);
        }
        assert!(throttle.admit(here, "guess", start).is_err());
        assert!(throttle.admit(here, "good", start).is_ok());
        assert!(throttle.admit(there, "guess", start).is_ok());
        assert!(throttle.admit(here, "guess", start + WINDOW).is_ok());
    }
}
