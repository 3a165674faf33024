//! How many requests an address may make: a bucket per address that leaks evenly (GCRA), in bounded memory.
//!
//! Per address one number is kept: when its bucket will be empty.

use std::{
    net::IpAddr,
    sync::Mutex,
    time::{Duration, Instant},
};

use crate::{generations::Generations, lock::lock};

/// So many addresses are remembered at least; twice as many take about 2 MiB.
const ADDRESSES: usize = 32_768;

/// A limit and what the addresses have used of it.
#[derive(Debug)]
pub(crate) struct RateLimiter {
    /// Nanoseconds that one request takes.
    interval: u64,
    /// How far ahead of now a bucket may be, in nanoseconds.
    room: u64,
    begun: Instant,
    /// When the bucket of an address will be empty, in nanoseconds since `begun`.
    buckets: Mutex<Generations<u128, u64>>,
}

impl RateLimiter {
    /// So many requests per period, and so many at once.
    pub(crate) fn new(requests: u32, period: Duration, burst: u32) -> Self {
        let period = u64::try_from(period.as_nanos()).unwrap_or(u64::MAX);
        let interval = (period / u64::from(requests.max(1))).max(1);
        Self {
            interval,
            room: interval.saturating_mul(u64::from(burst.max(1))),
            begun: Instant::now(),
            buckets: Mutex::new(Generations::new(ADDRESSES)),
        }
    }

    /// Counts a request.
    ///
    /// # Errors
    /// How long until there is room for it.
    pub(crate) fn admit(&self, ip: IpAddr) -> Result<(), Duration> {
        self.admit_at(ip, self.begun.elapsed())
    }

    /// As [`Self::admit`], at a time since the limiter began.
    fn admit_at(&self, ip: IpAddr, now: Duration) -> Result<(), Duration> {
        let now = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
        let key = key(ip);
        let mut buckets = lock(&self.buckets);
        let full_until = buckets.get(&key).copied().unwrap_or(0).max(now).saturating_add(self.interval);
        match full_until.saturating_sub(now).checked_sub(self.room) {
            None | Some(0) => {
                buckets.set(key, full_until);
                Ok(())
            }
            Some(over) => Err(Duration::from_nanos(over)),
        }
    }
}

/// Who is counted as one: an IPv4 address, or the /64 that one subscriber of IPv6 has.
fn key(ip: IpAddr) -> u128 {
    match ip.to_canonical() {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().to_bits(),
        IpAddr::V6(ip) => ip.to_bits() >> 64 << 64,
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn v4(n: u32) -> IpAddr {
        Ipv4Addr::from_bits(n).into()
    }

    #[test]
    fn a_burst_passes_and_then_requests_pass_evenly() {
        let limiter = RateLimiter::new(2, SECOND, 3);
        let at = |ms| limiter.admit_at(v4(1), Duration::from_millis(ms));
        assert!([at(0), at(0), at(0)].iter().all(Result::is_ok));
        assert_eq!(at(0), Err(Duration::from_millis(500)));
        assert_eq!(at(400), Err(Duration::from_millis(100)));
        assert_eq!(at(500), Ok(()));
        assert!(at(600).is_err());
        // After a pause the whole burst is there again, and no more.
        assert!([at(9000), at(9000), at(9000)].iter().all(Result::is_ok));
        assert!(at(9000).is_err());
    }

    #[test]
    fn addresses_do_not_disturb_each_other_but_one_network_of_ipv6_is_one() {
        let limiter = RateLimiter::new(1, SECOND, 1);
        let at = |ip: &str| limiter.admit_at(ip.parse().expect("an address"), Duration::ZERO).is_ok();
        assert!(at("192.0.2.1") && at("192.0.2.2") && at("2001:db8::1") && at("2001:db8:0:1::1"));
        assert!(!at("::ffff:192.0.2.1") && !at("2001:db8::ffff:1"));
    }

    #[test]
    fn memory_is_bounded_and_a_flood_of_addresses_forgets_the_oldest_alone() {
        let limiter = RateLimiter::new(1, Duration::from_secs(3600), 1);
        for n in 0..200_000 {
            assert_eq!(limiter.admit_at(v4(n), Duration::ZERO), Ok(()));
        }
        assert!(limiter.buckets.lock().expect("no panic").len() <= 2 * ADDRESSES);
        assert!(limiter.admit_at(v4(199_999), Duration::ZERO).is_err());
        assert!(limiter.admit_at(v4(199_999 - ADDRESSES as u32 + 1), Duration::ZERO).is_err());
    }

    proptest! {
        #[test]
        fn never_more_than_the_burst_and_what_time_gives(
            requests in 1_u32..50, burst in 1_u32..50, steps in prop::collection::vec(0_u64..300, 1..200),
        ) {
            let limiter = RateLimiter::new(requests, SECOND, burst);
            let ip = IpAddr::from(Ipv6Addr::LOCALHOST);
            let (mut now, mut passed) = (0, 0_u64);
            for step in steps {
                now += step;
                match limiter.admit_at(ip, Duration::from_millis(now)) {
                    Ok(()) => passed += 1,
                    // What was said to be enough is enough.
                    Err(wait) => {
                        prop_assert!(wait <= SECOND);
                        let later = Duration::from_millis(now) + wait;
                        let twin = RateLimiter::new(requests, SECOND, burst);
                        let used = limiter.buckets.lock().expect("no panic").get(&key(ip)).copied();
                        twin.buckets.lock().expect("no panic").set(key(ip), used.unwrap_or(0));
                        prop_assert!(twin.admit_at(ip, later).is_ok());
                    }
                }
                // The interval is cut to nanoseconds, so a little more may pass in a long time.
                prop_assert!(passed <= u64::from(burst) + now * u64::from(requests) / 1000 + 1);
            }
        }
    }
}
