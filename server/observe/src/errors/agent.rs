//! Browser and operating system from a user agent, where a client tells no better.

/// "browser" and "os", as far as they can be told.
#[must_use]
pub(crate) fn about(agent: &str) -> Vec<(&'static str, String)> {
    let agent = agent.get(..1000).unwrap_or(agent);
    browser(agent).map(|b| ("browser", b)).into_iter().chain(os(agent).map(|o| ("os", o))).collect()
}

/// The first product of this list that is named, since browsers name those that they want to be taken for.
fn browser(agent: &str) -> Option<String> {
    const KNOWN: &[(&str, &str)] = &[
        ("Edg/", "Edge"),
        ("OPR/", "Opera"),
        ("SamsungBrowser/", "Samsung Internet"),
        ("Firefox/", "Firefox"),
        ("FxiOS/", "Firefox"),
        ("HeadlessChrome/", "Chrome Headless"),
        ("CriOS/", "Chrome"),
        ("Chrome/", "Chrome"),
        ("Version/", "Safari"),
        ("curl/", "curl"),
        ("python-requests/", "python-requests"),
    ];
    let (mark, name) = KNOWN.iter().find(|(mark, _)| agent.contains(mark))?;
    let rest = &agent[agent.find(mark)? + mark.len()..];
    let version: String = rest.chars().take_while(|c| c.is_ascii_digit()).take(6).collect();
    Some(if version.is_empty() { (*name).to_owned() } else { format!("{name} {version}") })
}

fn os(agent: &str) -> Option<String> {
    const KNOWN: &[(&str, &str)] = &[
        ("Windows", "Windows"),
        ("iPhone", "iOS"),
        ("iPad", "iOS"),
        ("Android", "Android"),
        ("CrOS", "ChromeOS"),
        ("Mac OS X", "macOS"),
        ("Linux", "Linux"),
    ];
    KNOWN.iter().find(|(mark, _)| agent.contains(mark)).map(|(_, name)| (*name).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_browser_is_what_it_is_and_not_what_it_wants_to_be_taken_for() {
        let edge = "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/149.0.0.0 Safari/537.36 Edg/149.0";
        assert_eq!(about(edge), [("browser", "Edge 149".into()), ("os", "Windows".into())]);
        let iphone = "Mozilla/5.0 (iPhone; CPU iPhone OS 19_0 like Mac OS X) AppleWebKit/605 (KHTML, like Gecko) Version/19.0 Mobile Safari/604.1";
        assert_eq!(about(iphone), [("browser", "Safari 19".into()), ("os", "iOS".into())]);
        assert_eq!(about("x"), []);
    }
}
