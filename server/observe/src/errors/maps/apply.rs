//! Puts the frames of minified JavaScript right, by the source maps of its build.

use std::path::Path;

use berth_store::{DeployedMaps, WantedMap};
use serde_json::{Value, json};
use symbolic_sourcemapcache::{ScopeLookupResult, SourceLocation, SourceMapCache, SourcePosition};

use super::found::is_script;
use crate::errors::read;

/// Lines of code kept on each side.
const AROUND: u32 = 5;
/// Longest line of code that is kept.
const LINE: usize = 500;
/// Frames of an event that are looked up.
const MAX_FRAMES: usize = 500;

/// How an event names a map.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Need {
    /// Debug id, if the event tells it.
    pub debug_id: Option<String>,
    /// Release, if the event tells it.
    pub release: Option<String>,
    /// The file without scheme and host: `~/assets/index.js`; of a server its path: `/app/dist/server.js`.
    pub url: String,
}

impl Need {
    /// Whether nothing but the file's place is known: its map comes with the deployment that brings the file, or never.
    pub(super) fn is_of_place_alone(&self) -> bool {
        self.debug_id.is_none() && self.release.is_none()
    }

    /// Whether it is a file of a server, which nothing but the image tells that it came with.
    pub(super) fn is_in_image(&self) -> bool {
        self.debug_id.is_none() && self.url.starts_with('/')
    }

    /// Whether its map is still to be taken out of the image of its release.
    pub(super) fn is_due(&self, deployed: &DeployedMaps) -> bool {
        self.release.as_ref().is_some_and(|release| deployed.due.contains(release))
    }

    /// As the store keeps it.
    pub(in crate::errors) fn wanted(&self) -> WantedMap {
        WantedMap {
            debug_id: self.debug_id.clone().unwrap_or_default(),
            release: self.release.clone().unwrap_or_default(),
            url: self.url.clone(),
        }
    }
}

/// The maps that an event's frames want, each once with the path by which frames name it. None for an event that is not
/// of JavaScript, or whose frames were put right already.
#[must_use]
pub fn needs(body: &Value) -> Vec<(String, Need)> {
    let release = read::field(body, "release", 400);
    let images: Vec<(String, String)> = match body.pointer("/debug_meta/images") {
        Some(Value::Array(images)) => images
            .iter()
            .take(500)
            .filter_map(|i| {
                Some((
                    read::field(i, "code_file", 2000)?,
                    super::bundle::debug_id(i.get("debug_id")?.as_str()?)?,
                ))
            })
            .collect(),
        _ => Vec::new(),
    };
    let mut needs: Vec<(String, Need)> = Vec::new();
    for frame in stacks(body).flat_map(|frames| frames.iter()).take(MAX_FRAMES) {
        let Some(path) = path_of(frame).filter(|p| needs.iter().all(|(known, _)| known != p)) else {
            continue;
        };
        let debug_id = images.iter().find(|(file, _)| *file == path).map(|(_, id)| id.clone());
        if debug_id.is_some() || path.contains("://") || is_of_server(&path) {
            needs.push((path.clone(), Need { debug_id, release: release.clone(), url: url_of(&path) }));
        }
    }
    needs
}

fn stacks(body: &Value) -> impl Iterator<Item = &Vec<Value>> {
    let of = |key: &str| read::values(body.get(key)).iter();
    let own = std::iter::once(body);
    of("exception")
        .chain(of("threads"))
        .chain(own)
        .filter_map(|v| v.pointer("/stacktrace/frames")?.as_array())
}

/// The path of a frame that has a place and was not put right.
fn path_of(frame: &Value) -> Option<String> {
    let placed = read::int(frame.get("lineno")).is_some() && read::int(frame.get("colno")).is_some();
    let done = frame.pointer("/data/sourcemap").is_some();
    let path = read::field(frame, "abs_path", 2000).or_else(|| read::field(frame, "filename", 2000))?;
    (placed && !done && !path.starts_with("node:")).then_some(path)
}

/// Whether it is the path of a script on a server: `/app/dist/server.js`. Maps of packages are not taken.
fn is_of_server(path: &str) -> bool {
    path.starts_with('/') && is_script(Path::new(path)) && !path.contains("/node_modules/")
}

/// `https://shop.example/assets/a.js?v=1` → `~/assets/a.js`, `/app/dist/server.js` as it is.
fn url_of(path: &str) -> String {
    let path = path.split(['?', '#']).next().unwrap_or(path);
    if is_of_server(path) {
        return path.to_owned();
    }
    match path.split_once("://") {
        Some((_, rest)) => format!("~/{}", rest.split_once('/').map_or("", |(_, path)| path)),
        None => format!("~/{}", path.trim_start_matches('/')),
    }
}

/// Puts the frames right for which `find` knows a map, by the frame's path; how many.
pub fn apply<'m>(body: &mut Value, find: impl Fn(&str) -> Option<&'m SourceMapCache<'m>>) -> usize {
    let mut done = 0;
    for key in ["exception", "threads"] {
        let values = match body.get_mut(key) {
            Some(Value::Array(list)) => list,
            Some(Value::Object(object)) => match object.get_mut("values") {
                Some(Value::Array(list)) => list,
                _ => continue,
            },
            _ => continue,
        };
        for value in values {
            done += apply_to(value, &find);
        }
    }
    done + apply_to(body, &find)
}

fn apply_to<'m>(holder: &mut Value, find: &impl Fn(&str) -> Option<&'m SourceMapCache<'m>>) -> usize {
    let Some(Value::Array(frames)) = holder.pointer_mut("/stacktrace/frames") else { return 0 };
    let mut done = 0;
    for frame in frames.iter_mut().take(MAX_FRAMES) {
        let Some(path) = path_of(frame) else { continue };
        let Some(map) = find(&path) else { continue };
        done += usize::from(put_right(frame, &path, map));
    }
    done
}

fn put_right(frame: &mut Value, path: &str, map: &SourceMapCache<'_>) -> bool {
    let position = |key: &str| u32::try_from(read::int(frame.get(key))? - 1).ok();
    let (Some(line), Some(column)) = (position("lineno"), position("colno")) else { return false };
    let Some(found) = map.lookup(SourcePosition::new(line, column)) else { return false };
    let file = found.file_name().map(clean);
    let function = match found.scope() {
        ScopeLookupResult::NamedScope(name) => Some(name.to_owned()),
        ScopeLookupResult::AnonymousScope => Some("<anonymous>".to_owned()),
        ScopeLookupResult::Unknown => None,
    };
    let was = json!({
        "path": path, "function": frame.get("function"), "lineno": frame.get("lineno"), "colno": frame.get("colno"),
    });
    if !frame.get("data").is_some_and(Value::is_object) {
        frame["data"] = json!({});
    }
    frame["data"]["sourcemap"] = was;
    if let Some(function) = function {
        frame["function"] = function.into();
    }
    if let Some(file) = file {
        if file.contains("node_modules/") {
            frame["in_app"] = false.into();
        }
        frame["filename"] = file.as_str().into();
        frame["abs_path"] = file.into();
        if let Some(frame) = frame.as_object_mut() {
            frame.remove("module");
        }
    }
    frame["lineno"] = (found.line() + 1).into();
    frame["colno"] = (found.column() + 1).into();
    add_code(frame, &found);
    true
}

fn add_code(frame: &mut Value, found: &SourceLocation<'_>) {
    let Some(file) = found.file() else { return };
    let at = found.line();
    let text = |line: u32| {
        file.line(line as usize).map(|l| Value::from(read::cut(l.trim_end_matches(['\r', '\n']), LINE)))
    };
    let Some(line) = text(at) else { return };
    frame["context_line"] = line;
    frame["pre_context"] = (at.saturating_sub(AROUND)..at).filter_map(text).collect();
    frame["post_context"] = (at + 1..=at + AROUND).filter_map(text).collect();
}

/// `webpack://shop/./src/cart.ts?1a2b`, `../../src/cart.ts` → `src/cart.ts`.
fn clean(file: &str) -> String {
    let file = file.split('?').next().unwrap_or(file);
    let file = match file.split_once("://") {
        Some(("webpack" | "webpack-internal" | "turbopack" | "app", rest)) => {
            rest.split_once('/').map_or(rest, |(_, path)| path)
        }
        _ => file,
    };
    let mut rest = file;
    while let Some(tail) =
        rest.strip_prefix("../").or_else(|| rest.strip_prefix("./")).or_else(|| rest.strip_prefix("/"))
    {
        if rest.starts_with('/') && !tail.starts_with('.') {
            break;
        }
        rest = tail;
    }
    rest.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::errors::{event::Event, maps::bundle};

    #[test]
    fn a_minified_frame_becomes_the_line_that_a_person_wrote() {
        let pair =
            bundle::pairs(include_bytes!("../../../tests/fixtures/artifact-bundle.zip")).unwrap().remove(0);
        let bytes = super::super::build(&pair.source, &pair.map).unwrap();
        let map = SourceMapCache::parse(&bytes).unwrap();
        // Somewhere in the third line, where the code is.
        let mut body = json!({
            "platform": "javascript",
            "exception": {"values": [{"type": "TypeError", "value": "x", "stacktrace": {"frames": [
                {"abs_path": "https://shop.example/main.js?v=1", "function": "t", "lineno": 3, "colno": 36, "in_app": true}
            ]}}]},
            "debug_meta": {"images": [
                {"type": "sourcemap", "code_file": "https://shop.example/main.js?v=1", "debug_id": "ff0d4cca3c945250a2dcb3e40bb3d19b"}
            ]},
        });
        let wanted = needs(&body);
        assert_eq!(wanted.len(), 1);
        assert_eq!(wanted[0].1.debug_id, pair.debug_id);
        assert_eq!(wanted[0].1.url, "~/main.js");
        assert_eq!(apply(&mut body, |path| (path == wanted[0].0).then_some(&map)), 1);
        let event = Event::read(&body).unwrap();
        let frame = &event.main_stack()[0];
        assert_eq!((frame.filename.as_deref(), frame.line), (Some("src/main.ts"), Some(1)));
        assert_eq!(frame.function.as_deref(), Some("priceOf"));
        assert!(frame.code.as_deref().unwrap().contains("priceOf"), "{frame:?}");
        assert!(frame.mapped);
        assert_eq!(apply(&mut body, |_| Some(&map)), 0, "once is enough");
        assert!(needs(&body).is_empty());
    }

    #[test]
    fn names_of_sources_lose_what_bundlers_add() {
        for (file, wanted) in [
            ("webpack://shop/./src/cart.ts?1a2b", "src/cart.ts"),
            ("../../src/cart.ts", "src/cart.ts"),
            ("src/cart.ts", "src/cart.ts"),
            ("webpack:///node_modules/a/b.js", "node_modules/a/b.js"),
        ] {
            assert_eq!(clean(file), wanted);
        }
        assert_eq!(url_of("app:///_next/a.js"), "~/_next/a.js");
    }

    #[test]
    fn a_script_of_a_server_is_looked_for_by_its_path() {
        let frame = |path: &str| json!({ "filename": path, "lineno": 1, "colno": 2 });
        let paths =
            ["/app/dist/server.js", "/app/node_modules/x/a.js", "/app/main.py", "node:fs", "app:///a.mjs"];
        let frames: Vec<Value> = paths.into_iter().map(frame).collect();
        let body = json!({ "release": "web@1", "stacktrace": { "frames": frames } });
        let needs = needs(&body);
        let urls: Vec<&str> = needs.iter().map(|(_, need)| need.url.as_str()).collect();
        assert_eq!(urls, ["/app/dist/server.js", "~/a.mjs"]);
        assert!(needs[0].1.is_in_image() && !needs[1].1.is_in_image());
        let due = DeployedMaps { any: false, due: vec!["web@1".into()] };
        assert!(needs[0].1.is_due(&due) && !needs[0].1.is_due(&DeployedMaps::default()));
    }
}
