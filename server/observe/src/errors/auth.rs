//! Which key a client shows: in the query, in one of two headers, or in the DSN of its envelope.

/// Longest header that is looked at, in bytes.
const MAX_HEADER: usize = 4096;

/// The public key of a DSN: 32 hexadecimal digits, lower case.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PublicKey(String);

impl PublicKey {
    /// The key as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::str::FromStr for PublicKey {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let fits = text.len() == 32 && text.bytes().all(|b| b.is_ascii_hexdigit());
        if fits { Ok(Self(text.to_ascii_lowercase())) } else { Err(()) }
    }
}

/// The key in a query string: `sentry_key=`.
#[must_use]
pub fn in_query(query: &str) -> Option<PublicKey> {
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    pairs.filter(|(name, _)| *name == "sentry_key").find_map(|(_, value)| value.parse().ok())
}

/// The key in a value of `X-Sentry-Auth`, or of `Authorization` with the scheme `Sentry`:
/// `Sentry sentry_key=…, sentry_version=7`.
#[must_use]
pub fn in_header(value: &str) -> Option<PublicKey> {
    let value = value.get(..MAX_HEADER).unwrap_or(value).trim();
    let scheme = value.get(..7).filter(|s| s.eq_ignore_ascii_case("sentry ")).map_or(0, str::len);
    let pairs = value[scheme..].split([',', ' ']).filter_map(|pair| pair.trim().split_once('='));
    pairs.filter(|(name, _)| *name == "sentry_key").find_map(|(_, key)| key.trim_matches('"').parse().ok())
}

/// The key and the project's id of a DSN: `https://KEY@host/prefix/ID`, older ones `https://KEY:SECRET@…`.
#[must_use]
pub fn in_dsn(dsn: &str) -> Option<(PublicKey, i64)> {
    let (_, rest) = dsn.split_once("://")?;
    let (user, place) = rest.split_once('@')?;
    let key = user.split(':').next()?.parse().ok()?;
    let path = place.split(['?', '#']).next()?.trim_end_matches('/');
    let id = path.rsplit_once('/')?.1.parse().ok().filter(|id| *id > 0)?;
    Some((key, id))
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "0123456789abcdef0123456789abcdef";

    #[test]
    fn every_place_is_read() {
        let key: PublicKey = KEY.parse().unwrap();
        assert_eq!(in_query(&format!("sentry_version=7&sentry_key={KEY}&x")), Some(key.clone()));
        assert_eq!(in_query("sentry_key=short"), None);
        for header in [
            format!("Sentry sentry_key={KEY}, sentry_version=7, sentry_client=x/1"),
            format!("sentry sentry_version=7,sentry_key={KEY}"),
            format!("sentry_version=7, sentry_key={KEY}, sentry_timestamp=1.5"),
        ] {
            assert_eq!(in_header(&header), Some(key.clone()), "{header}");
        }
        assert_eq!(in_header("Bearer abc"), None);
        assert_eq!(in_header("日本日本日本"), None);
        assert_eq!(in_dsn(&format!("https://{KEY}@e.example/7")), Some((key.clone(), 7)));
        assert_eq!(in_dsn(&format!("http://{KEY}:secret@e.example:9/pre/fix/12/")), Some((key, 12)));
        for bad in
            ["", "x", "https://e.example/7", &format!("https://{KEY}@e/x"), &format!("https://{KEY}@e/-1")]
        {
            assert_eq!(in_dsn(bad), None, "{bad}");
        }
    }
}
