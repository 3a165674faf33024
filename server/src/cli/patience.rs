//! What the terminal shows while the daemon has not answered: no wait is silent.

use std::time::Duration;

use tokio::time::Instant;

use super::term;

/// How long an answer may take before anything is said.
const FIRST: Duration = Duration::from_secs(1);
/// Between two words after that.
const AGAIN: Duration = Duration::from_secs(3);

/// Runs a call; as soon as it takes its time, `say` gets a line every few seconds that names `what` is waited for.
pub async fn patiently<T>(what: &str, call: impl Future<Output = T>, mut say: impl FnMut(String)) -> T {
    tokio::pin!(call);
    let begun = Instant::now();
    let mut next = begun + FIRST;
    loop {
        tokio::select! {
            biased;
            done = &mut call => return done,
            () = tokio::time::sleep_until(next) => {
                say(format!("{what}: waiting for the daemon, {} s so far", begun.elapsed().as_secs()));
                next += AGAIN;
            }
        }
    }
}

/// Says it on standard error.
pub fn aloud(text: String) {
    anstream::eprintln!("{m}{}{m:#}", term::safe(&text), m = term::MUTED);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_takes_its_time_says_so() {
        let mut said = Vec::new();
        patiently("Show a job", tokio::time::sleep(Duration::from_millis(900)), |t| said.push(t)).await;
        assert!(said.is_empty(), "{said:?}");
        patiently("Show a job", tokio::time::sleep(Duration::from_secs(8)), |t| said.push(t)).await;
        assert_eq!(said.len(), 3, "{said:?}");
        assert_eq!(said[1], "Show a job: waiting for the daemon, 4 s so far");
    }
}
