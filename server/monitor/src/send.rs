//! Sending a message by a channel: through the guard, in bounded time and size.

use std::time::Duration;

use base64::{Engine as _, prelude::BASE64_STANDARD as BASE64};
use berth_deploy::source::guard::{HostPolicy, bound_client, resolve_guarded};
use berth_schemas::{
    Code, Problem,
    alert::{ChannelTarget, SmtpSecurity},
};
use lettre::{
    AsyncSmtpTransport, AsyncTransport as _, Message, Tokio1Executor,
    message::{Mailbox, header::ContentType},
    transport::smtp::{
        authentication::Credentials,
        client::{Tls, TlsParameters},
    },
};
use serde_json::{Value, json};

/// The longest that one try may take.
const TIME: Duration = Duration::from_secs(20);
/// Recipients of a channel.
const MAX_RECIPIENTS: usize = 20;
/// Longest text of a message, in characters; Discord takes 2000.
const MAX_TEXT: usize = 1_800;
/// What a webhook's secret begins with, by the Standard Webhooks specification.
const SECRET_PREFIX: &str = "whsec_";

/// Why a message was not delivered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub struct SendError {
    /// In words.
    pub why: String,
    /// Whether trying again may help.
    pub transient: bool,
}

impl SendError {
    fn lasting(why: impl Into<String>) -> Self {
        Self { why: why.into(), transient: false }
    }

    fn passing(why: impl Into<String>) -> Self {
        Self { why: why.into(), transient: true }
    }
}

/// Sends messages.
#[derive(Debug, Clone)]
pub struct Sender {
    /// Which hosts may be talked to.
    pub policy: HostPolicy,
}

/// Checks a channel's target, and makes the secret of a webhook that has none: the secret, if it was made.
///
/// # Errors
/// `InvalidInput` with what is wrong.
pub(crate) fn complete(target: &mut ChannelTarget) -> Result<Option<String>, Problem> {
    let wrong = |text: &str| Problem::invalid("target", text);
    match target {
        ChannelTarget::Email { smtp_host, from, to, username, password, .. } => {
            if smtp_host.is_empty() || smtp_host.len() > 253 {
                return Err(wrong("smtp_host is the relay's host name."));
            }
            if to.is_empty() || to.len() > MAX_RECIPIENTS {
                return Err(wrong("to has 1 to 20 addresses."));
            }
            for address in to.iter().chain([&*from]) {
                address
                    .parse::<Mailbox>()
                    .map_err(|e| wrong(&format!("{address:?} is no e-mail address: {e}.")))?;
            }
            if username.is_some() != password.is_some() {
                return Err(wrong("username and password belong together."));
            }
        }
        ChannelTarget::Slack { url }
        | ChannelTarget::Discord { url }
        | ChannelTarget::Webhook { url, .. } => {
            let uri: Option<http::Uri> = url.parse().ok().filter(|_| url.len() <= 2000);
            let sound =
                uri.is_some_and(|u| matches!(u.scheme_str(), Some("http" | "https")) && u.host().is_some());
            if !sound {
                return Err(wrong("url must be an http:// or https:// URL."));
            }
        }
    }
    let ChannelTarget::Webhook { secret, .. } = target else { return Ok(None) };
    if let Some(secret) = secret {
        return match key(secret) {
            Some(_) => Ok(None),
            None => {
                Err(wrong("secret is whsec_ and 16 to 64 bytes in base 64, or nothing, so that one is made."))
            }
        };
    }
    let mut bytes = [0_u8; 24];
    getrandom::fill(&mut bytes)
        .map_err(|e| Problem::new(Code::Internal, format!("No random bytes: {e}.")))?;
    let made = format!("{SECRET_PREFIX}{}", BASE64.encode(bytes));
    *secret = Some(made.clone());
    Ok(Some(made))
}

fn key(secret: &str) -> Option<Vec<u8>> {
    let bytes = BASE64.decode(secret.strip_prefix(SECRET_PREFIX)?).ok()?;
    (16..=64).contains(&bytes.len()).then_some(bytes)
}

/// `v1,` and the HMAC-SHA-256 of `id.timestamp.body`, as the Standard Webhooks specification has it.
pub(crate) fn signature(secret: &str, id: &str, timestamp: i64, body: &str) -> Option<String> {
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, &key(secret)?);
    let tag = ring::hmac::sign(&key, format!("{id}.{timestamp}.{body}").as_bytes());
    Some(format!("v1,{}", BASE64.encode(tag)))
}

impl Sender {
    /// Checks a target and makes what it lacks: the secret of a webhook, which is returned if it was made.
    ///
    /// # Errors
    /// `InvalidInput` with what is wrong.
    pub fn complete(&self, target: &mut ChannelTarget) -> Result<Option<String>, Problem> {
        complete(target)
    }

    /// Sends a message; `id` tells it from others, the same at every try. `now` in seconds since 1970.
    ///
    /// # Errors
    /// Why it was not taken.
    pub async fn send(
        &self,
        target: &ChannelTarget,
        id: &str,
        message: &Value,
        now: i64,
    ) -> Result<(), SendError> {
        let sending = async {
            match target {
                ChannelTarget::Email { .. } => self.mail(target, message).await,
                ChannelTarget::Slack { url } => {
                    self.post(url, &json!({ "text": text(message, "*") }), &[]).await
                }
                ChannelTarget::Discord { url } => {
                    // Nobody is called by what a stranger wrote.
                    let body = json!({ "content": text(message, "**"), "allowed_mentions": { "parse": [] } });
                    self.post(url, &body, &[]).await
                }
                ChannelTarget::Webhook { url, secret } => {
                    let body = json!({ "type": "alert", "timestamp": now, "data": message });
                    let secret = secret.as_deref().unwrap_or_default();
                    let signed = signature(secret, id, now, &body.to_string());
                    let signed =
                        signed.ok_or_else(|| SendError::lasting("the channel has no usable secret"))?;
                    let headers = [
                        ("webhook-id", id.to_owned()),
                        ("webhook-timestamp", now.to_string()),
                        ("webhook-signature", signed),
                    ];
                    self.post(url, &body, &headers).await
                }
            }
        };
        let late = |_| SendError::passing(format!("no answer within {} s", TIME.as_secs()));
        tokio::time::timeout(TIME, sending).await.map_err(late)?
    }

    async fn post(&self, url: &str, body: &Value, headers: &[(&str, String)]) -> Result<(), SendError> {
        let uri: http::Uri = url.parse().map_err(|_| SendError::lasting("its URL is none"))?;
        let host = uri.host().unwrap_or_default().to_owned();
        let port = uri.port_u16().unwrap_or(if uri.scheme_str() == Some("http") { 80 } else { 443 });
        let addresses = resolve_guarded(&host, port, &self.policy)
            .await
            .map_err(|e| SendError::passing(e.to_string()))?;
        let client =
            bound_client(&host, &addresses).build().map_err(|e| SendError::lasting(e.to_string()))?;
        // Written once, because a signature is over these very bytes.
        let mut request = client.post(url).header("content-type", "application/json").body(body.to_string());
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        // Its URL may be a secret, so it is kept out of what is told.
        let answer =
            request.send().await.map_err(|e| SendError::passing(format!("{host}: {}", e.without_url())))?;
        let status = answer.status();
        match status.as_u16() {
            200..=299 => Ok(()),
            408 | 425 | 429 | 500..=599 => Err(SendError::passing(format!("{host} answered {status}"))),
            _ => Err(SendError::lasting(format!("{host} answered {status}"))),
        }
    }

    async fn mail(&self, target: &ChannelTarget, message: &Value) -> Result<(), SendError> {
        let ChannelTarget::Email { smtp_host, smtp_port, security, username, password, from, to } = target
        else {
            return Err(SendError::lasting("the channel is no e-mail channel"));
        };
        let lasting = |e: &dyn std::fmt::Display| SendError::lasting(e.to_string());
        let title: String = field(message, "title").chars().filter(|c| !c.is_control()).take(200).collect();
        let mut mail = Message::builder()
            .from(from.parse().map_err(|e| lasting(&e))?)
            .subject(title)
            .header(ContentType::TEXT_PLAIN);
        for address in to {
            mail = mail.to(address.parse().map_err(|e| lasting(&e))?);
        }
        let mail = mail.body(field(message, "text")).map_err(|e| lasting(&e))?;
        let security = security.unwrap_or(SmtpSecurity::Starttls);
        let port = smtp_port.unwrap_or(587);
        let addresses = resolve_guarded(smtp_host, port, &self.policy)
            .await
            .map_err(|e| SendError::passing(e.to_string()))?;
        let address = addresses.first().ok_or_else(|| SendError::passing("the relay has no address"))?;
        let tls = || TlsParameters::new(smtp_host.clone()).map_err(|e| lasting(&e));
        let mut transport = AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(address.ip().to_string())
            .port(port)
            .timeout(Some(TIME))
            .tls(match security {
                SmtpSecurity::Tls => Tls::Wrapper(tls()?),
                SmtpSecurity::Starttls => Tls::Required(tls()?),
                SmtpSecurity::None => Tls::None,
            });
        if let (Some(user), Some(password)) = (username, password) {
            transport = transport.credentials(Credentials::new(user.clone(), password.clone()));
        }
        let sent = transport.build().send(mail).await;
        sent.map(drop).map_err(|e| match e.is_permanent() {
            true => SendError::lasting(e.to_string()),
            false => SendError::passing(e.to_string()),
        })
    }
}

fn field(message: &Value, name: &str) -> String {
    message.get(name).and_then(Value::as_str).unwrap_or_default().to_owned()
}

/// Title and text for a chat; what would be mark-up there is not.
fn text(message: &Value, bold: &str) -> String {
    let plain = |name: &str| {
        let text = field(message, name);
        text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('@', "@\u{200b}")
    };
    let text = format!("{bold}{}{bold}\n{}", plain("title").replace('*', "·"), plain("text"));
    text.chars().take(MAX_TEXT).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_that_of_the_specification() {
        // The example of the specification's reference implementations.
        let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
        let body = "{\"test\": 2432232314}";
        let signed = signature(secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, body);
        assert_eq!(signed.as_deref(), Some("v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="));
        assert_eq!(signature("short", "a", 1, ""), None);
    }

    #[test]
    fn a_target_is_checked_and_gets_a_secret() {
        let mut hook = ChannelTarget::Webhook { url: "https://x.example/hook".into(), secret: None };
        let made = complete(&mut hook).unwrap().unwrap();
        assert!(key(&made).is_some());
        assert_eq!(complete(&mut hook).unwrap(), None, "it has one now");
        for mut bad in [
            ChannelTarget::Slack { url: "ftp://x.example".into() },
            ChannelTarget::Webhook { url: "https://x.example".into(), secret: Some("x".into()) },
            ChannelTarget::Email {
                smtp_host: "mail.example".into(),
                smtp_port: None,
                security: None,
                username: Some("u".into()),
                password: None,
                from: "a@x.example".into(),
                to: vec!["b@x.example".into()],
            },
            ChannelTarget::Email {
                smtp_host: "mail.example".into(),
                smtp_port: None,
                security: None,
                username: None,
                password: None,
                from: "nobody".into(),
                to: vec!["b@x.example".into()],
            },
        ] {
            assert!(complete(&mut bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn what_a_stranger_wrote_calls_nobody() {
        let message =
            json!({ "title": "E: <!channel> @everyone *x*", "text": "<https://evil.example|click>" });
        let said = text(&message, "*");
        assert!(!said.contains("<!") && !said.contains("@everyone") && !said.contains("<https"), "{said}");
    }
}
