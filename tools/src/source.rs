//! What a deployment brings: as the caller names it, or as the app's settings do.

use berth_schemas::{Code, Problem, Scope, deployment::DeploymentCreate, ids::UploadId, token::TokenMode};
use berth_store::model::{AppRow, DeploymentSource, UploadRow};

use crate::{registry::Call, settings};

/// How many deployments are looked through for what was pushed last: rollbacks and uploads may be newer.
const SOURCES_LOOKED_AT: i64 = 50;

/// Checks what can be checked without asking anybody.
pub(crate) fn check(input: &DeploymentCreate, allow_local: bool) -> Result<(), Problem> {
    if input.folder.is_some() {
        let detail = "The daemon cannot read a folder of your machine.";
        return Err(Problem::invalid("folder", detail).hint(
            "Use git_url or files; or the command line (berth deploy) or `berth mcp`, which upload the folder.",
        ));
    }
    let named = [
        ("git_url", input.git_url.is_some()),
        ("image", input.image.is_some()),
        ("upload", input.upload.is_some()),
        ("files", input.files.is_some()),
    ];
    let named: Vec<&str> = named.into_iter().filter_map(|(name, there)| there.then_some(name)).collect();
    if let [_, second, ..] = named.as_slice() {
        let detail = format!("A deployment has one source, and {} were given.", named.join(" and "));
        return Err(Problem::invalid(second, detail).hint("Pass only one of them."));
    }
    let wrong = |field: &str, why: String| Problem::invalid(field, format!("{field}: {why}."));
    if let Some(url) = &input.git_url {
        settings::git_url(url, allow_local).map_err(|why| wrong("git_url", why))?;
    }
    if let Some(git_ref) = &input.git_ref {
        settings::git_ref(git_ref).map_err(|why| wrong("git_ref", why))?;
        if !named.is_empty() && named != ["git_url"] {
            return Err(wrong(
                "git_ref",
                format!("it belongs to git_url and says nothing about {}", named[0]),
            ));
        }
    }
    if let Some(image) = &input.image {
        settings::image(image).map_err(|why| wrong("image", why))?;
    }
    if input.files.as_ref().is_some_and(std::collections::BTreeMap::is_empty) {
        return Err(Problem { code: Code::EmptySource, ..wrong("files", "there are none".into()) });
    }
    if input.message.as_ref().is_some_and(|m| m.len() > 500 || m.chars().any(char::is_control)) {
        return Err(wrong("message", "it must be one line of at most 500 characters".into()));
    }
    Ok(())
}

/// What to say where there is no source at all.
pub(crate) fn none_given(app: &str) -> Problem {
    Problem::new(Code::InvalidInput, format!("No source was given, and {app} has none in its settings."))
        .hint("Pass git_url, image, upload, files or folder; or set one with app_update(settings={git_url: …}).")
}

/// An upload that the call may use: the caller's own, or any if an admin calls. What was proposed is the proposer's own
/// when it is proposed and when it is approved: whoever approves does not know whose upload a number means.
pub(crate) async fn upload(call: &Call, id: &UploadId) -> Result<UploadRow, Problem> {
    let proposes = call.principal.mode == TokenMode::Propose;
    let (whose, any) = match &call.proposed_by {
        Some(proposer) => (proposer.as_str(), false),
        None => (call.principal.name.as_str(), call.principal.may(Scope::Admin) && !proposes),
    };
    let row = call.context.store.uploads().get(id).await?;
    // Another token's upload is as good as none.
    row.filter(|u| any || u.by == whose).ok_or_else(|| {
        Problem {
            field: Some("upload".into()),
            ..Problem::new(Code::NotFound, "There is no such upload; it may have expired.")
        }
        .hint("Upload the archive again with POST /v1/uploads.")
    })
}

/// What a deployment brings.
pub(crate) async fn of(
    call: &Call,
    app: &AppRow,
    input: &DeploymentCreate,
) -> Result<DeploymentSource, Problem> {
    if let Some(url) = &input.git_url {
        return Ok(DeploymentSource::Git { url: url.clone(), git_ref: input.git_ref.clone(), commit: None });
    }
    if let Some(image) = &input.image {
        return Ok(DeploymentSource::Image { image: image.clone() });
    }
    if let Some(id) = &input.upload {
        let row = upload(call, id).await?;
        return Ok(DeploymentSource::Upload { upload: row.id, bytes: row.bytes });
    }
    if let Some(files) = &input.files {
        let row = call.context.pipeline.store_files(&call.principal, files.clone()).await?;
        return Ok(DeploymentSource::Files {
            upload: row.id,
            files: i64::try_from(files.len()).unwrap_or(i64::MAX),
        });
    }
    let configured = &app.settings;
    if let Some(url) = &configured.git_url {
        let git_ref = input.git_ref.clone().or_else(|| configured.git_ref.clone());
        return Ok(DeploymentSource::Git { url: url.clone(), git_ref, commit: None });
    }
    match &configured.image {
        Some(image) if input.git_ref.is_none() => Ok(DeploymentSource::Image { image: image.clone() }),
        Some(_) => Err(Problem::invalid(
            "git_ref",
            "git_ref belongs to a git source, and the app's source is an image.",
        )),
        None => pushed_last(call, app, input).await,
    }
}

/// An app without a configured source that lives from pushes: what the newest of them brought here.
async fn pushed_last(
    call: &Call,
    app: &AppRow,
    input: &DeploymentCreate,
) -> Result<DeploymentSource, Problem> {
    let here = Some(app.environment.id);
    let newest =
        call.context.store.deployments().list_in(app.id, here, None, None, SOURCES_LOOKED_AT).await?;
    let source = newest.into_iter().map(|d| d.source).find(|source| source.commit().is_some());
    match source {
        Some(_) if input.git_ref.is_some() => Err(Problem::invalid(
            "git_ref",
            "git_ref belongs to git_url, and the app's source is what was pushed.",
        )
        .hint("Push that branch; or name its repository with git_url.")),
        Some(source) => Ok(source),
        None => Err(none_given(app.slug.as_str())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn checked(input: serde_json::Value) -> Result<(), Problem> {
        check(&serde_json::from_value(input).unwrap(), false)
    }

    #[test]
    fn one_source_and_only_one() {
        assert!(checked(json!({"app": "web", "git_url": "https://example.com/a/b"})).is_ok());
        assert!(checked(json!({"app": "web"})).is_ok(), "the app may have one configured");
        let both = checked(json!({"app": "web", "image": "nginx", "git_url": "https://example.com/a/b"}))
            .unwrap_err();
        assert!(both.detail.contains("git_url and image"), "{both}");
    }

    #[test]
    fn a_folder_is_refused_with_the_way_out() {
        let problem = checked(json!({"app": "web", "folder": "."})).unwrap_err();
        assert_eq!(problem.field.as_deref(), Some("folder"));
        assert!(problem.hint.unwrap().contains("berth mcp"));
    }

    #[test]
    fn fields_that_contradict_the_source_are_named() {
        for (value, field) in [
            (json!({"app": "web", "image": "nginx", "git_ref": "main"}), "git_ref"),
            (json!({"app": "web", "git_url": "file:///etc"}), "git_url"),
            (json!({"app": "web", "image": "-x"}), "image"),
            (json!({"app": "web", "files": {}}), "files"),
            (json!({"app": "web", "message": "a\nb"}), "message"),
        ] {
            assert_eq!(checked(value).unwrap_err().field.as_deref(), Some(field));
        }
    }
}
