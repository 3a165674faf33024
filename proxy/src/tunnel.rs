//! An upgraded connection, mostly a WebSocket: from the app's 101 on, bytes both ways until one side ends.
//!
//! Pingora's general way would do, were it not for a race of its own: the mark that the request has no body can reach
//! its writing half after the app's 101, is then taken for the client's end, and the new connection is closed.

use http::{StatusCode, header};
use pingora::{
    Error, ErrorType, Result,
    http::ResponseHeader,
    protocols::http::{HttpTask, v1::client::HttpSession},
    proxy::Session,
};

use crate::exchange::Exchange;

/// Whether this answer turns the connection over to another protocol, as the client asked.
pub(crate) fn begins(session: &Session, app: &HttpSession, first: &HttpTask) -> bool {
    matches!(first, HttpTask::Header(head, _) if head.status == StatusCode::SWITCHING_PROTOCOLS)
        && session.is_upgrade_req()
        && app.was_upgraded()
}

/// Passes the app's 101, and then what comes, until one side ends.
pub(crate) async fn run(
    session: &mut Session,
    exchange: &mut Exchange,
    app: &mut HttpSession,
    mut head: Box<ResponseHeader>,
) -> Result<()> {
    check_protocol(session, &head)?;
    exchange.upgraded();
    exchange.answered(head.status);
    head.remove_header("x-berth-error");
    exchange.stamp().mark_apps(&mut head)?;
    // May be silent for as long as it likes.
    app.read_timeout = None;
    app.maybe_upgrade_body_writer();
    session.write_response_tasks(vec![HttpTask::Header(head, false)]).await.map_err(Error::into_down)?;
    loop {
        tokio::select! {
            task = app.read_response_task() => {
                let task = task.map_err(Error::into_up)?;
                if session.write_response_tasks(vec![task]).await.map_err(Error::into_down)? {
                    return Ok(());
                }
            }
            piece = session.downstream_session.read_body_or_idle(false) => {
                let Some(piece) = piece.map_err(Error::into_down)? else {
                    // The app may have gone already; there is nobody to tell.
                    let _ = app.finish_body().await;
                    return Ok(());
                };
                app.write_body(&piece).await.map_err(Error::into_up)?;
            }
        }
    }
}

/// An app names the protocol that it switches to, and it is one that was asked for (RFC 9110, section 7.8).
fn check_protocol(session: &Session, head: &ResponseHeader) -> Result<()> {
    let asked = session.req_header().headers.get(header::UPGRADE).and_then(|v| v.to_str().ok());
    let given = head.headers.get(header::UPGRADE).and_then(|v| v.to_str().ok());
    let known = |given: &str| {
        asked.is_some_and(|asked| asked.split(',').any(|one| one.trim().eq_ignore_ascii_case(given.trim())))
    };
    match given {
        Some(given) if known(given) => Ok(()),
        _ => {
            Err(Error::explain(ErrorType::InvalidHTTPHeader, "a switch to a protocol nobody asked for")
                .into_up())
        }
    }
}
