//! `/`: a small page that shows what runs. It asks for a token, keeps it for the tab's life, and calls the
//! same REST routes as everybody else. What apps sent is put into the page as text, never as markup.

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, header};

const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
                      frame-ancestors 'none'; base-uri 'none'; form-action 'none'";

/// The page.
pub async fn page() -> Response {
    asset("text/html; charset=utf-8", include_str!("panel/index.html"))
}

/// Its script.
pub async fn script() -> Response {
    asset("text/javascript; charset=utf-8", include_str!("panel/panel.js"))
}

/// Its style, used by the API page too.
pub async fn style() -> Response {
    asset("text/css; charset=utf-8", include_str!("panel/panel.css"))
}

fn asset(content_type: &'static str, body: &'static str) -> Response {
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static(content_type)),
        (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY)),
    ];
    (headers, body).into_response()
}
