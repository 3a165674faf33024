//! Which frames are the app's own code.

use super::event::Frame;

/// Parts of paths that belong to packages and runtimes, whatever the client says.
const FOREIGN_PATHS: &[&str] = &[
    "/node_modules/",
    "node:",
    "/site-packages/",
    "/dist-packages/",
    "/usr/lib/python",
    "/usr/local/lib/python",
    "/.cargo/registry/",
    "/cargo/registry/",
    "/rustc/",
    "/rust/library/",
    "/vendor/bundle/",
    "/gems/",
    "/usr/local/go/",
    "/go/pkg/mod/",
    "webpack/runtime/",
    "webpack/bootstrap",
    "/.yarn/",
    "/.pnpm/",
    "chrome-extension://",
    "moz-extension://",
    "safari-extension://",
    "<frozen ",
    "<anonymous>",
    "[native code]",
    "internal/process/",
    "internal/modules/",
];
/// What modules of packages and runtimes begin with, by platform.
const FOREIGN_MODULES: &[(&str, &[&str])] = &[
    (
        "native",
        &["std::", "core::", "alloc::", "tokio::", "hyper::", "futures_util::", "backtrace::", "__rust"],
    ),
    (
        "rust",
        &["std::", "core::", "alloc::", "tokio::", "hyper::", "futures_util::", "backtrace::", "__rust"],
    ),
    (
        "java",
        &["java.", "javax.", "sun.", "jdk.", "kotlin.", "scala.", "org.springframework.", "org.apache."],
    ),
    ("csharp", &["System.", "Microsoft."]),
    ("go", &["runtime", "net/http", "reflect"]),
];

/// Whether a frame is the app's own code. What the client `said` counts, but for what lies among packages.
pub(crate) fn is_own(frame: &Frame, said: Option<bool>, platform: &str) -> bool {
    let slashed = |path: &str| format!("/{}", path.replace('\\', "/"));
    let paths = [frame.abs_path.as_deref(), frame.filename.as_deref()];
    let among_packages = paths.into_iter().flatten().any(|path| {
        let path = slashed(path);
        FOREIGN_PATHS.iter().any(|part| path.contains(part))
    });
    if among_packages {
        return false;
    }
    said.unwrap_or_else(|| !runtime(frame, platform))
}

fn runtime(frame: &Frame, platform: &str) -> bool {
    let Some((_, prefixes)) = FOREIGN_MODULES.iter().find(|(name, _)| *name == platform) else {
        return false;
    };
    let name = match platform {
        "native" | "rust" => frame.function.as_deref().or(frame.module.as_deref()),
        _ => frame.module.as_deref().or(frame.function.as_deref()),
    };
    let name = name.unwrap_or_default().trim_start_matches(['<', '&', '*', ' ']);
    prefixes.iter().any(|prefix| name.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own(path: &str, function: &str, said: Option<bool>, platform: &str) -> bool {
        let frame =
            Frame { abs_path: Some(path.into()), function: Some(function.into()), ..Frame::default() };
        is_own(&frame, said, platform)
    }

    #[test]
    fn packages_are_foreign_whatever_is_said_and_the_rest_is_as_said() {
        assert!(own("/app/src/index.js", "f", None, "node"));
        assert!(!own("/app/node_modules/express/lib/router.js", "f", Some(true), "node"));
        assert!(!own("node:internal/process/task_queues", "f", None, "node"));
        assert!(!own("/usr/lib/python3.11/json/decoder.py", "f", Some(true), "python"));
        assert!(!own("C:\\app\\node_modules\\x.js", "f", None, "node"));
        assert!(!own("/app/generated.py", "f", Some(false), "python"));
        assert!(!own("", "<core::option::Option<T>>::unwrap", None, "native"));
        assert!(!own("", "std::panicking::begin_panic", None, "rust"));
        assert!(own("", "shop::price_of", None, "rust"));
    }
}
