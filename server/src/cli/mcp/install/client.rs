//! The clients: where each keeps its servers, and in which form.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

use super::edit::{self, Entry};

/// A client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    ClaudeCode,
    ClaudeDesktop,
    Cursor,
    Vscode,
    Codex,
}

type Environment<'a> = &'a dyn Fn(&str) -> Option<OsString>;

impl Kind {
    pub(super) const ALL: [Self; 5] =
        [Self::ClaudeCode, Self::ClaudeDesktop, Self::Cursor, Self::Vscode, Self::Codex];

    /// Its name on the command line.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::ClaudeCode => "claude-code",
            Self::ClaudeDesktop => "claude-desktop",
            Self::Cursor => "cursor",
            Self::Vscode => "vscode",
            Self::Codex => "codex",
        }
    }

    pub(super) fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text)
    }

    /// Its file for all of a user's projects.
    pub(super) fn of_user(self, environment: Environment<'_>) -> Result<PathBuf, String> {
        let dir = |name: &str| environment(name).map(PathBuf::from).filter(|p| p.is_absolute());
        let home = dir("HOME").ok_or("HOME is not set, so that the configuration cannot be found")?;
        let application = || match std::env::consts::OS {
            "macos" => home.join("Library/Application Support"),
            _ => dir("XDG_CONFIG_HOME").unwrap_or_else(|| home.join(".config")),
        };
        Ok(match self {
            Self::ClaudeCode => dir("CLAUDE_CONFIG_DIR").unwrap_or_else(|| home.clone()).join(".claude.json"),
            Self::ClaudeDesktop => application().join("Claude/claude_desktop_config.json"),
            Self::Cursor => home.join(".cursor/mcp.json"),
            Self::Vscode => application().join("Code/User/mcp.json"),
            Self::Codex => dir("CODEX_HOME").unwrap_or_else(|| home.join(".codex")).join("config.toml"),
        })
    }

    /// Its file for one project.
    pub(super) fn in_project(self, dir: &Path) -> Result<PathBuf, String> {
        Ok(match self {
            Self::ClaudeCode => dir.join(".mcp.json"),
            Self::ClaudeDesktop => {
                return Err("Claude Desktop knows no projects; leave --project away".into());
            }
            Self::Cursor => dir.join(".cursor/mcp.json"),
            Self::Vscode => dir.join(".vscode/mcp.json"),
            Self::Codex => dir.join(".codex/config.toml"),
        })
    }

    /// The file's text with the entry in it.
    pub(super) fn write(self, text: &str, name: &str, entry: &Entry) -> Result<String, String> {
        match self {
            Self::ClaudeCode => edit::json(text, "mcpServers", name, entry, true),
            Self::ClaudeDesktop | Self::Cursor => edit::json(text, "mcpServers", name, entry, false),
            Self::Vscode => edit::json(text, "servers", name, entry, true),
            Self::Codex => edit::toml(text, name, entry),
        }
    }

    /// What its user does next.
    pub(super) fn next(self) -> &'static str {
        match self {
            Self::ClaudeCode => "Start Claude Code anew; /mcp shows it.",
            Self::ClaudeDesktop => "Quit Claude Desktop and start it anew.",
            Self::Cursor => "Cursor shows it in its settings, under MCP.",
            Self::Vscode => "Run \"MCP: List Servers\" in VS Code to start it.",
            Self::Codex => "Start Codex anew; /mcp shows it.",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_client_has_its_place() {
        let home = |name: &str| (name == "HOME").then(|| OsString::from("/home/ada"));
        let of = |kind: Kind| kind.of_user(&home).unwrap().display().to_string();
        assert_eq!(of(Kind::ClaudeCode), "/home/ada/.claude.json");
        assert_eq!(of(Kind::Codex), "/home/ada/.codex/config.toml");
        assert_eq!(of(Kind::Cursor), "/home/ada/.cursor/mcp.json");
        if cfg!(target_os = "linux") {
            assert_eq!(of(Kind::Vscode), "/home/ada/.config/Code/User/mcp.json");
            assert_eq!(of(Kind::ClaudeDesktop), "/home/ada/.config/Claude/claude_desktop_config.json");
        }
        let moved = |name: &str| match name {
            "CODEX_HOME" => Some(OsString::from("/elsewhere")),
            "CLAUDE_CONFIG_DIR" => Some(OsString::from("relative")),
            _ => home(name),
        };
        assert_eq!(Kind::Codex.of_user(&moved).unwrap(), Path::new("/elsewhere/config.toml"));
        assert_eq!(Kind::ClaudeCode.of_user(&moved).unwrap(), Path::new("/home/ada/.claude.json"));
        assert!(Kind::Codex.of_user(&|_| None).is_err());
        assert!(Kind::ClaudeDesktop.in_project(Path::new("/x")).is_err());
    }
}
