//! A folder named in a call becomes an upload: the assistant and this program share a machine, the daemon may
//! be elsewhere.

use std::path::Path;

use super::message::Message;
use crate::cli::{client::Client, deploy, failure::Failure};

/// The tool whose `folder` is replaced.
const TOOL: &str = "deployment_create";

/// Packs and uploads the folder that a call names, and names the upload instead.
///
/// # Errors
/// When the folder cannot be packed or uploaded.
pub async fn upload(message: &mut Message, client: &Client, read_only: bool) -> Result<(), Failure> {
    let Some(arguments) = message.arguments_of(TOOL) else { return Ok(()) };
    let Some(folder) = deploy::folder_of(arguments) else { return Ok(()) };
    if read_only {
        return Err(Failure::local("this bridge was started with --read-only and uploads nothing"));
    }
    // A home directory or the whole disk is a slip of the model, not an app.
    let home = std::env::var_os("HOME").map(std::path::PathBuf::from);
    let full = std::fs::canonicalize(&folder)
        .map_err(|e| Failure::local(format!("the folder {} cannot be read: {e}", folder.display())))?;
    if full == Path::new("/") || home.is_some_and(|h| h == full) {
        return Err(Failure::local(format!(
            "{} is no app's folder; name the one that holds the app",
            full.display()
        )));
    }
    let upload = deploy::upload_folder(client, &full, true).await?;
    arguments.remove("folder");
    arguments.insert("upload".into(), upload.upload.to_string().into());
    Ok(())
}
