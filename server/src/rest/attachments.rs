//! `GET …/errors/attachments/{attachment}/content`: a file that came with an error, as it came.
//!
//! Strangers wrote it, and what opens it here opens it at the control plane's own origin: so it goes as bytes to be kept,
//! never as anything that a browser would show or run.

use axum::{
    Extension,
    body::Body,
    extract::{Path, State},
    response::{IntoResponse as _, Response},
};
use berth_schemas::{AppSlug, Code, Problem, issue::ErrorAttachmentGet};
use berth_store::model::Principal;
use berth_tools::{Call, Outside, error_attachments};
use bytes::Bytes;
use futures_util::stream;
use http::{HeaderValue, header};

use super::{Shared, caller::Caller, problem::Refusal};

/// Bytes of a file that are sent at a time.
const PIECE: usize = 64 << 10;
/// Longest name that is suggested to whoever keeps it.
const MAX_NAME: usize = 100;

/// Sends a file.
pub async fn download(
    State(control): State<Shared>,
    Extension(principal): Extension<Principal>,
    Path((app, attachment)): Path<(String, String)>,
    caller: Caller,
) -> Response {
    let target = Some(format!("app={}", app.chars().take(60).collect::<String>()));
    let via = caller.by_rest();
    let door = Outside { who: &principal, via, what: "error_attachment_download", target };
    let found = find(&control, &principal, &app, &attachment).await;
    door.noted(&control.context, found.as_ref().map_or_else(|p| p.code.as_str(), |_| "ok"));
    match found {
        Ok((name, body)) => send(&name, body),
        Err(problem) => Refusal::from(problem).into_response(),
    }
}

async fn find(
    control: &Shared,
    principal: &Principal,
    app: &str,
    attachment: &str,
) -> Result<(String, Vec<u8>), Problem> {
    let tool = control.registry.get(error_attachments::NAME);
    tool.ok_or_else(|| Problem::new(Code::Internal, "The route has no tool."))?.permits(principal)?;
    let app: AppSlug = app.parse().map_err(|_| Problem::not_found("app", app, &[]))?;
    let attachment = attachment.parse().map_err(|_| {
        Problem::invalid("attachment", "attachment is a number, as error_event_get shows it.")
    })?;
    let call = Call::new(std::sync::Arc::clone(&control.context), principal.clone());
    let (row, body) = error_attachments::find_file(&call, &ErrorAttachmentGet { app, attachment }).await?;
    Ok((row.name, body))
}

fn send(name: &str, body: Vec<u8>) -> Response {
    let disposition = format!("attachment; filename=\"{}\"", harmless(name));
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream")),
        (header::CONTENT_LENGTH, HeaderValue::from(body.len())),
        (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static("default-src 'none'; sandbox")),
        (
            header::CONTENT_DISPOSITION,
            disposition.parse().unwrap_or_else(|_| HeaderValue::from_static("attachment")),
        ),
    ];
    let body = Bytes::from(body);
    let pieces = (0..body.len())
        .step_by(PIECE)
        .map(move |at| Ok::<_, std::convert::Infallible>(body.slice(at..body.len().min(at + PIECE))));
    (headers, Body::from_stream(stream::iter(pieces))).into_response()
}

/// A name that is no path and cannot end the header that it stands in.
fn harmless(name: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || "._- ".contains(c) { c } else { '_' };
    let name: String = name.chars().take(MAX_NAME).map(plain).collect();
    let name = name.trim_matches(['.', ' ']);
    if name.is_empty() { "attachment".to_owned() } else { name.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_leads_nowhere() {
        for (name, shown) in [
            ("shot.png", "shot.png"),
            ("../../etc/passwd", "_.._etc_passwd"),
            ("a\"; filename=b.html\r\nX: y", "a__ filename_b.html__X_ y"),
            ("größe", "gr__e"),
            ("..", "attachment"),
        ] {
            assert_eq!(harmless(name), shown);
        }
    }
}
