//! Files that came with events and feedback: screenshots, dumps, logs.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use berth_schemas::{
    Code, Problem, Scope,
    issue::{ErrorAttachment, ErrorAttachmentGet},
};
use berth_store::AttachmentRow;

use crate::{
    feedback, find, jobs,
    page::Budget,
    registry::{Brief, Call, Hints, Image, Method, Spec, Tier, Tool},
    text::Text,
};

/// The tool's name, also for the door by which the bytes are had: whoever may call the tool may go through it.
pub const NAME: &str = "error_attachment_get";
/// Where the bytes are had.
pub const DOWNLOAD: &str = "/v1/apps/{app}/errors/attachments/{attachment}/content";
/// Characters of a text that are shown to a model,
const FOR_MODEL: usize = 6_000;
/// and to others.
const FOR_OTHERS: usize = 200_000;
/// Largest image that is shown to a model, in bytes.
const MAX_IMAGE: usize = 1 << 20;

pub(crate) fn tools() -> Vec<Tool> {
    vec![Tool::new(
        Spec {
            name: NAME,
            title: "Show a file that came with an error",
            description: "Show a file that came with an event or with feedback, by its number in error_event_get or feedback_list: texts with what they say, images as images; anything else by name, type and size. The path in download has all bytes.",
            hints: Hints::READ,
            scope: Scope::Read,
            tier: Tier::Extended,
            method: Method::Get,
            path: "/v1/apps/{app}/errors/attachments/{attachment}",
        },
        get,
    )]
}

/// The file of this number of an app, and its bytes.
///
/// # Errors
/// `NotFound` when there is none that the caller may see.
pub async fn find_file(call: &Call, input: &ErrorAttachmentGet) -> Result<(AttachmentRow, Vec<u8>), Problem> {
    let app = find::app(call, &input.app).await?;
    let found = call.context.store.errors().attachment(app.id, input.attachment).await?;
    found.ok_or_else(|| {
        let detail = format!("{} has no attachment {}.", app.slug, input.attachment);
        Problem { field: Some("attachment".into()), ..Problem::new(Code::NotFound, detail) }
            .hint("error_event_get and feedback_list show the files that are kept.")
    })
}

async fn get(call: Call, input: ErrorAttachmentGet) -> Result<ErrorAttachment, Problem> {
    let (row, body) = find_file(&call, &input).await?;
    let (model, most) = match call.budget {
        Budget::Model { .. } => (true, FOR_MODEL),
        Budget::Unlimited => (false, FOR_OTHERS),
    };
    let is_text = matches!(row.media_type, "text/plain" | "application/json");
    let text = std::str::from_utf8(&body).ok().filter(|_| is_text);
    let text = text.map(|text| text.chars().take(most).collect::<String>().into());
    let image = model && row.media_type.starts_with("image/") && body.len() <= MAX_IMAGE;
    Ok(ErrorAttachment {
        file: feedback::attachment(&row),
        at: row.at,
        event: row.event_id,
        text,
        image: image.then(|| STANDARD.encode(&body)),
        download: DOWNLOAD
            .replace("{app}", input.app.as_str())
            .replace("{attachment}", &input.attachment.to_string()),
    })
}

impl Brief for ErrorAttachment {
    fn brief(&self) -> Text {
        let file = &self.file;
        let text = Text::from(format!("Attachment {} ", file.attachment)).quote(&file.name);
        let text = text.say(format!(" ({}, {}) of {}.", file.media_type, jobs::size(file.bytes), self.event));
        match &self.text {
            Some(said) => text.say("\n").quote(said),
            None if self.image.is_some() => text,
            None => text.say(format!(
                " Its bytes: GET {}, or berth error attachment-get APP {} --output FILE.",
                self.download, file.attachment
            )),
        }
    }

    fn image(&self) -> Option<Image> {
        let base64 = self.image.clone()?;
        Some(Image { media_type: self.file.media_type.clone(), base64 })
    }
}
