//! What users wrote: about an error, or about the app.

use berth_schemas::{
    Code, Problem, Scope, Untrusted,
    issue::{
        AttachmentShown, Feedback, FeedbackDelete, FeedbackDeleted, FeedbackList, FeedbackPage, FeedbackShown,
    },
};
use berth_store::{AttachmentRow, FeedbackRow};

use crate::{
    confirm::confirmed,
    find,
    page::{self, Keep},
    registry::{Brief, Call, Hints, Method, Spec, Tier, Tool},
    text::Text,
};

pub(crate) fn tools() -> Vec<Tool> {
    vec![
        Tool::new(
            Spec {
                name: "feedback_list",
                title: "List what users wrote",
                description: "List user feedback of one app or all, newest first: message, name, address, page, screenshots, and the issue that it is about, if it is about one.",
                hints: Hints::READ,
                scope: Scope::Read,
                tier: Tier::Extended,
                method: Method::Get,
                path: "/v1/feedback",
            },
            list,
        ),
        Tool::new(
            Spec {
                name: "feedback_delete",
                title: "Delete user feedback",
                description: "Delete one message of user feedback with its screenshots, for good. Wants confirm=<its number>. For all data of a person use error_user_delete.",
                hints: Hints::DESTROY,
                scope: Scope::Write,
                tier: Tier::Extended,
                method: Method::Delete,
                path: "/v1/apps/{app}/feedback/{feedback}",
            },
            delete,
        ),
    ]
}

async fn list(call: Call, input: FeedbackList) -> Result<FeedbackPage, Problem> {
    let limit = page::limit(input.limit, 20, 100)?;
    let before = page::number_cursor(input.cursor.as_deref())?;
    let app = match (&input.app, &input.environment) {
        (Some(app), environment) => Some(find::app_in(&call, app, environment.as_ref()).await?),
        (None, None) => None,
        (None, Some(_)) => {
            return Err(Problem::invalid(
                "environment",
                "An environment is one of an app: name the app, too.",
            ));
        }
    };
    let environment = app.as_ref().filter(|_| input.environment.is_some()).map(|app| app.environment.id);
    let errors = call.context.store.errors();
    let view = &call.principal.visible;
    let rows = errors.all_feedback(view, app.as_ref().map(|a| a.id), environment, before, limit + 1).await?;
    let most = usize::try_from(limit).unwrap_or(0);
    let more = rows.len() > most;
    let mut feedback = Vec::new();
    for row in rows.iter().take(most) {
        feedback.push(shown(&call, row).await?);
    }
    let cut = page::fit(&mut feedback, Keep::First, call.budget, input.limit.is_some());
    let next = feedback.last().map(|f| f.feedback.feedback.to_string()).filter(|_| more || cut);
    Ok(FeedbackPage { feedback, next_cursor: next })
}

async fn delete(call: Call, input: FeedbackDelete) -> Result<FeedbackDeleted, Problem> {
    let app = find::app_to_change(&call, &input.app).await?;
    let errors = call.context.store.errors();
    let Some(row) = errors.feedback_by_id(app.id, input.feedback).await? else {
        let detail = format!("{} has no feedback {}.", app.slug, input.feedback);
        return Err(Problem { field: Some("feedback".into()), ..Problem::new(Code::NotFound, detail) }
            .hint(format!("feedback_list(app={:?}) shows what there is.", app.slug.as_str())));
    };
    let feedback = shown(&call, &row).await?;
    if input.dry_run {
        return Ok(FeedbackDeleted { feedback, deleted: false });
    }
    let name = row.id.to_string();
    let effects = [format!("delete feedback {name} of {} of {}", app.slug, row.at)];
    confirmed("feedback_delete", &name, input.confirm.as_deref(), &effects)?;
    errors.delete_feedback(&call.principal, &row).await?;
    Ok(FeedbackDeleted { feedback, deleted: true })
}

/// What a user wrote about an issue.
pub(crate) fn about_issue(row: &FeedbackRow) -> Feedback {
    Feedback {
        feedback: row.id,
        at: row.at,
        name: Untrusted::maybe(row.name.clone()),
        email: Untrusted::maybe(row.email.clone()),
        message: row.message.as_str().into(),
    }
}

async fn shown(call: &Call, row: &FeedbackRow) -> Result<FeedbackShown, Problem> {
    let files = match &row.own_id {
        Some(own) => call.context.store.errors().attachments(row.app_id, own).await?,
        None => Vec::new(),
    };
    Ok(FeedbackShown {
        feedback: about_issue(row),
        app: row.app.clone(),
        environment: row.environment.clone(),
        url: Untrusted::maybe(row.url.clone()),
        event: row.event_id.clone().filter(|_| row.issue.is_some()),
        issue: row.issue.clone(),
        attachments: files.iter().map(attachment).collect(),
    })
}

/// A file in a line.
pub(crate) fn attachment(row: &AttachmentRow) -> AttachmentShown {
    AttachmentShown {
        attachment: row.id,
        name: row.name.as_str().into(),
        media_type: row.media_type.to_owned(),
        bytes: row.bytes,
    }
}

/// What a user wrote, for a reader who sees nothing else.
fn story(shown: &FeedbackShown) -> String {
    let of = |text: &Option<Untrusted>| text.as_ref().map(|t| t.0.clone());
    let who: Vec<String> =
        [of(&shown.feedback.name), of(&shown.feedback.email)].into_iter().flatten().collect();
    let about = shown.issue.as_ref().map(|i| format!(" about {i}")).unwrap_or_default();
    let page = of(&shown.url).map(|url| format!(" on {url}")).unwrap_or_default();
    let files = match shown.attachments.len() {
        0 => String::new(),
        n => format!(" ({n} files)"),
    };
    format!(
        "{} {} {}{about}{page}{files}: {}",
        shown.feedback.feedback,
        shown.feedback.at,
        if who.is_empty() { "somebody".to_owned() } else { who.join(", ") },
        shown.feedback.message.0
    )
}

impl Brief for FeedbackPage {
    fn brief(&self) -> Text {
        if self.feedback.is_empty() {
            return "Nobody has written anything.".into();
        }
        let text = Text::new().quote_lines(self.feedback.iter().map(|f| story(f).into()));
        text.say_if(page::more(self.next_cursor.as_ref()))
    }
}

impl Brief for FeedbackDeleted {
    fn brief(&self) -> Text {
        let what = if self.deleted { "Deleted: " } else { "Dry run. It would delete: " };
        Text::from(what).quote(&story(&self.feedback).as_str().into())
    }
}
