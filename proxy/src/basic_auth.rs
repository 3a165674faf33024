//! Name and password for visitors (RFC 7617).
//!
//! Passwords are kept as Argon2id hashes, which take tens of milliseconds to check. So a credential is checked once,
//! on the blocking pool, a few at a time and so many per address; what was found is remembered under a keyed hash
//! that nobody outside this process can make. Every further request costs one HMAC.

use std::{
    collections::HashMap,
    fmt,
    net::IpAddr,
    sync::{Arc, Mutex, atomic::AtomicUsize},
    time::Duration,
};

use argon2::{
    Argon2, Params,
    password_hash::{PasswordHasher as _, PasswordVerifier as _, phc::PasswordHash},
};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use berth_schemas::{
    Problem,
    rules::{BasicAuth, BasicUser, DomainRules},
};
use http::{HeaderMap, HeaderValue, header};
use ring::{hmac, rand::SystemRandom};
use tokio::sync::Semaphore;

use crate::{
    generations::Generations, lock::lock, path_rules::Exceptions, place::Place, rate_limit::RateLimiter,
};

/// Most users of one domain.
const MOST_USERS: usize = 50;
/// Longest `Authorization` that is looked at.
const LONGEST_HEADER: usize = 1024;
/// Credentials whose outcome is remembered, right and wrong ones apart.
const REMEMBERED: usize = 2048;
/// Checks that may wait for their turn.
const MOST_WAITING: usize = 64;
/// Credentials that one address may have checked per minute, and at once.
const CHECKS_PER_MINUTE: u32 = 60;
const CHECKS_AT_ONCE: u32 = 30;
/// What a check may cost at most: memory in KiB, passes, lanes.
const MOST_COST: (u32, u32, u32) = (65_536, 8, 4);

/// Who may come in at a domain.
pub(crate) struct Guard {
    users: HashMap<String, Arc<str>>,
    /// Checked in place of an unknown user's, so that it takes as long.
    decoy: Arc<str>,
    challenge: HeaderValue,
    except: Exceptions,
}

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guard").field("users", &self.users.len()).finish_non_exhaustive()
    }
}

impl Guard {
    /// Checks the rule. Its users have hashes; see [`hash_passwords`].
    pub(crate) fn compile(rule: &BasicAuth) -> Result<Self, Problem> {
        if rule.users.is_empty() || rule.users.len() > MOST_USERS {
            return Err(Problem::invalid("basic_auth.users", format!("Name 1 to {MOST_USERS} users.")));
        }
        let mut users = HashMap::new();
        for (at, user) in rule.users.iter().enumerate() {
            let field = |name: &str| format!("basic_auth.users[{at}].{name}");
            check_name(&user.name, &field("name"))?;
            let hash = match (&user.password, &user.password_hash) {
                (None, Some(hash)) => hash.as_str(),
                _ => return Err(Problem::invalid(&field("password"), "This user needs a password.")),
            };
            check_hash(hash, &field("password_hash"))?;
            if users.insert(user.name.clone(), Arc::from(hash)).is_some() {
                return Err(Problem::invalid(
                    &field("name"),
                    format!("There are two users named {}.", user.name),
                ));
            }
        }
        let decoy = users.values().next().cloned().unwrap_or_default();
        let realm = rule.realm.as_deref().unwrap_or("Restricted");
        let plain = |b: u8| (b == b' ' || b.is_ascii_graphic()) && b != b'"' && b != b'\\';
        let challenge = HeaderValue::from_str(&format!("Basic realm=\"{realm}\", charset=\"UTF-8\""))
            .ok()
            .filter(|_| realm.len() <= 100 && realm.bytes().all(plain))
            .ok_or_else(|| {
                let text = "A realm is up to 100 ASCII characters without quotes and backslashes.";
                Problem::invalid("basic_auth.realm", text)
            })?;
        if rule.except.len() > 50 {
            return Err(Problem::invalid("basic_auth.except", "At most 50 paths can be open to all."));
        }
        let except = Exceptions::parse(&rule.except, "basic_auth.except")?;
        Ok(Self { users, decoy, challenge, except })
    }

    /// What `WWW-Authenticate` says.
    pub(crate) fn challenge(&self) -> &HeaderValue {
        &self.challenge
    }

    /// Whether a path is open to all.
    pub(crate) fn is_open(&self, path: &str) -> bool {
        self.except.have(path)
    }
}

fn check_name(name: &str, field: &str) -> Result<(), Problem> {
    let sound =
        (1..=128).contains(&name.chars().count()) && !name.contains(|c: char| c == ':' || c.is_control());
    if sound {
        Ok(())
    } else {
        Err(Problem::invalid(field, "A user's name has 1 to 128 characters and no colon."))
    }
}

/// Only what a check can be paid for.
fn check_hash(hash: &str, field: &str) -> Result<(), Problem> {
    let (memory, passes, lanes) = MOST_COST;
    let sound = hash.len() <= 256
        && PasswordHash::new(hash).is_ok_and(|hash| {
            hash.algorithm.as_str() == "argon2id"
                && hash.hash.is_some()
                && Params::try_from(&hash)
                    .is_ok_and(|p| p.m_cost() <= memory && p.t_cost() <= passes && p.p_cost() <= lanes)
        });
    if sound {
        return Ok(());
    }
    let rule =
        format!("an Argon2id hash ($argon2id$v=19$…) of at most {} MiB, {passes} passes", memory >> 10);
    Err(Problem::invalid(field, format!("This is not {rule}.")).hint("Give the password itself instead."))
}

/// The rules as they may be kept: each password as its hash, and a user without one with that of `before`. Takes tens
/// of milliseconds per new password: not for the runtime's threads.
///
/// # Errors
/// When a user has neither, or a password is too short or too long.
pub fn hash_passwords(mut rules: DomainRules, before: Option<&DomainRules>) -> Result<DomainRules, Problem> {
    let Some(auth) = &mut rules.basic_auth else { return Ok(rules) };
    if auth.users.len() > MOST_USERS {
        return Err(Problem::invalid("basic_auth.users", format!("Name 1 to {MOST_USERS} users.")));
    }
    let kept = before.and_then(|before| before.basic_auth.as_ref()).map_or(&[][..], |auth| &auth.users);
    for (at, user) in auth.users.iter_mut().enumerate() {
        let field = format!("basic_auth.users[{at}].password");
        let hash = match (user.password.take(), user.password_hash.take()) {
            (Some(_), Some(_)) => {
                return Err(Problem::invalid(&field, "Give a password or its hash, not both."));
            }
            (None, Some(hash)) => hash,
            (Some(password), None) => hash_password(&password, &field)?,
            (None, None) => {
                let same = |other: &&BasicUser| other.name == user.name;
                let kept = kept.iter().find(same).and_then(|user| user.password_hash.clone());
                kept.ok_or_else(|| {
                    Problem::invalid(&field, format!("{} is new and needs a password.", user.name))
                })?
            }
        };
        user.password_hash = Some(hash);
    }
    Ok(rules)
}

fn hash_password(password: &str, field: &str) -> Result<String, Problem> {
    if !(8..=256).contains(&password.len()) {
        return Err(Problem::invalid(field, "A password has 8 to 256 bytes."));
    }
    let hash = Argon2::default().hash_password(password.as_bytes());
    hash.map(|hash| hash.to_string())
        .map_err(|error| Problem::invalid(field, format!("It cannot be hashed: {error}.")))
}

/// What became of a visitor's credential.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Login {
    Welcome,
    /// None, or not a right one.
    Refused,
    /// Too many to check; come again.
    Later(Duration),
}

/// Credentials that were checked already, and the turns of those that are to be.
pub(crate) struct Logins {
    key: hmac::Key,
    right: Mutex<Generations<[u8; 32], ()>>,
    wrong: Mutex<Generations<[u8; 32], ()>>,
    turns: Arc<Semaphore>,
    waiting: AtomicUsize,
    per_address: RateLimiter,
}

impl fmt::Debug for Logins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Logins").field("waiting", &self.waiting).finish_non_exhaustive()
    }
}

impl Logins {
    /// `None` when the system has no randomness.
    pub(crate) fn new() -> Option<Self> {
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new()).ok()?;
        // Half of the cores stay with the visitors.
        let turns = std::thread::available_parallelism().map_or(1, |cores| (cores.get() / 2).max(1));
        Some(Self {
            key,
            right: Mutex::new(Generations::new(REMEMBERED)),
            wrong: Mutex::new(Generations::new(REMEMBERED)),
            turns: Arc::new(Semaphore::new(turns)),
            waiting: AtomicUsize::new(0),
            per_address: RateLimiter::new(CHECKS_PER_MINUTE, Duration::from_secs(60), CHECKS_AT_ONCE),
        })
    }

    /// Checks what a request says about its visitor.
    pub(crate) async fn check(&self, guard: &Guard, headers: &HeaderMap, ip: IpAddr) -> Login {
        let mut said = headers.get_all(header::AUTHORIZATION).iter();
        let (Some(said), None) = (said.next(), said.next()) else { return Login::Refused };
        let Some((name, password)) = credential(said) else { return Login::Refused };
        let known = guard.users.get(&name);
        let hash = Arc::clone(known.unwrap_or(&guard.decoy));
        let known = known.is_some();
        let tag = self.tag(&hash, &name, &password);
        if known && remembers(&self.right, tag) {
            return Login::Welcome;
        }
        if remembers(&self.wrong, tag) {
            return Login::Refused;
        }
        if let Err(wait) = self.per_address.admit(ip) {
            return Login::Later(wait);
        }
        match self.verify(hash, password).await {
            None => Login::Later(Duration::from_secs(1)),
            Some(right) if right && known => {
                remember(&self.right, tag);
                Login::Welcome
            }
            Some(_) => {
                remember(&self.wrong, tag);
                Login::Refused
            }
        }
    }

    /// `None` when too many wait already.
    async fn verify(&self, hash: Arc<str>, password: Vec<u8>) -> Option<bool> {
        let _place = Place::take(&self.waiting, MOST_WAITING)?;
        let turn = Arc::clone(&self.turns).acquire_owned().await.ok()?;
        let check = tokio::task::spawn_blocking(move || {
            // Held to the end of the work, whoever still waits for it.
            let _turn = turn;
            PasswordHash::new(&hash)
                .is_ok_and(|hash| Argon2::default().verify_password(&password, &hash).is_ok())
        });
        check.await.ok()
    }

    fn tag(&self, hash: &str, name: &str, password: &[u8]) -> [u8; 32] {
        let mut context = hmac::Context::with_key(&self.key);
        for part in [hash.as_bytes(), name.as_bytes(), password] {
            context.update(&part.len().to_be_bytes());
            context.update(part);
        }
        let mut tag = [0; 32];
        tag.copy_from_slice(context.sign().as_ref());
        tag
    }
}

fn remembers(tags: &Mutex<Generations<[u8; 32], ()>>, tag: [u8; 32]) -> bool {
    let mut tags = lock(tags);
    let known = tags.get(&tag).is_some();
    if known {
        // What is used stays.
        tags.set(tag, ());
    }
    known
}

fn remember(tags: &Mutex<Generations<[u8; 32], ()>>, tag: [u8; 32]) {
    lock(tags).set(tag, ());
}

/// Name and password of an `Authorization` header.
fn credential(said: &HeaderValue) -> Option<(String, Vec<u8>)> {
    let (scheme, token) = said.to_str().ok().filter(|said| said.len() <= LONGEST_HEADER)?.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let pair = BASE64_STANDARD.decode(token.trim()).ok()?;
    let colon = pair.iter().position(|b| *b == b':')?;
    Some((String::from_utf8(pair[..colon].to_vec()).ok()?, pair[colon + 1..].to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(users: &[(&str, Option<&str>)]) -> DomainRules {
        let user = |(name, password): &(&str, Option<&str>)| BasicUser {
            name: (*name).to_owned(),
            password: password.map(str::to_owned),
            password_hash: None,
        };
        let users = users.iter().map(user).collect();
        DomainRules {
            basic_auth: Some(BasicAuth { users, realm: None, except: vec!["/health".into()] }),
            ..DomainRules::default()
        }
    }

    fn said(pair: &str) -> HeaderMap {
        let value = format!("Basic {}", BASE64_STANDARD.encode(pair));
        HeaderMap::from_iter([(header::AUTHORIZATION, value.parse().expect("a header"))])
    }

    #[test]
    fn passwords_are_kept_as_hashes_and_a_user_without_one_keeps_theirs() {
        let first = hash_passwords(rules(&[("ann", Some("correct horse"))]), None).expect("hashed");
        let hash = |rules: &DomainRules, at: usize| {
            let user = &rules.basic_auth.as_ref().expect("kept").users[at];
            assert_eq!(user.password, None);
            user.password_hash.clone().expect("a hash")
        };
        assert!(hash(&first, 0).starts_with("$argon2id$"));
        let again = rules(&[("bob", Some("battery staple")), ("ann", None)]);
        let second = hash_passwords(again, Some(&first)).expect("hashed");
        assert_eq!(hash(&second, 1), hash(&first, 0));
        assert!(Guard::compile(second.basic_auth.as_ref().expect("kept")).is_ok());
        for (wrong, field) in [
            (rules(&[("carl", None)]), "basic_auth.users[0].password"),
            (rules(&[("ann", Some("short"))]), "basic_auth.users[0].password"),
        ] {
            let problem = hash_passwords(wrong, Some(&first)).expect_err("refused");
            assert_eq!(problem.field.as_deref(), Some(field));
        }
    }

    #[test]
    fn a_hash_that_costs_too_much_or_is_none_is_refused() {
        let salt_and_hash = "c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc";
        assert!(check_hash(&format!("$argon2id$v=19$m=19456,t=2,p=1${salt_and_hash}"), "f").is_ok());
        for bad in [
            format!("$argon2id$v=19$m=4194304,t=2,p=1${salt_and_hash}"),
            format!("$argon2id$v=19$m=19456,t=200,p=1${salt_and_hash}"),
            format!("$argon2d$v=19$m=19456,t=2,p=1${salt_and_hash}"),
            "$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHQ".into(),
            "$2y$05$abcdefghijklmnopqrstuv".into(),
            "plain".into(),
            String::new(),
        ] {
            assert!(check_hash(&bad, "f").is_err(), "{bad}");
        }
    }

    #[tokio::test]
    async fn a_credential_is_checked_once_and_an_address_may_not_try_for_ever() {
        let kept = hash_passwords(rules(&[("ann", Some("correct: horse"))]), None).expect("hashed");
        let guard = Guard::compile(kept.basic_auth.as_ref().expect("kept")).expect("sound");
        let logins = Logins::new().expect("randomness");
        let ip = |n: u8| IpAddr::from([192, 0, 2, n]);
        assert_eq!(logins.check(&guard, &said("ann:correct: horse"), ip(1)).await, Login::Welcome);
        assert_eq!(logins.check(&guard, &said("ann:wrong"), ip(1)).await, Login::Refused);
        assert_eq!(logins.check(&guard, &said("eve:correct: horse"), ip(1)).await, Login::Refused);
        assert_eq!(logins.check(&guard, &HeaderMap::new(), ip(1)).await, Login::Refused);
        let begun = std::time::Instant::now();
        for _ in 0..1000 {
            assert_eq!(logins.check(&guard, &said("ann:correct: horse"), ip(1)).await, Login::Welcome);
            assert_eq!(logins.check(&guard, &said("ann:wrong"), ip(2)).await, Login::Refused);
        }
        assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
        // What was not checked yet is limited, what is known to be right is not.
        let flood = IpAddr::from([192, 0, 2, 9]);
        while logins.per_address.admit(flood).is_ok() {}
        assert!(matches!(logins.check(&guard, &said("ann:guess"), flood).await, Login::Later(_)));
        assert_eq!(logins.check(&guard, &said("ann:correct: horse"), flood).await, Login::Welcome);
    }

    #[test]
    fn odd_headers_are_no_credential() {
        for bad in ["Basic", "Basic !!!", "Bearer abc", "Basic YQ==", ""] {
            assert!(credential(&HeaderValue::from_str(bad).expect("a header")).is_none(), "{bad}");
        }
        let value = HeaderValue::from_static("bAsIc YTpiOmM=");
        assert_eq!(credential(&value), Some(("a".into(), b"b:c".to_vec())));
    }
}
