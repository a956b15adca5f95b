//! Which crate of Mainstay may depend on which. The direction of the arrows is the architecture.

use super::Violation;
use serde_json::Value;
use std::path::Path;

struct Row {
    name: &'static str,
    /// Packages of this workspace that it may depend on.
    may_use: &'static [&'static str],
    /// Whether its outcome depends on its input alone: no clock, no file, no socket, no runtime.
    is_pure: bool,
}

const CRATES: &[Row] = &[
    Row { name: "mainstay-core", may_use: &[], is_pure: true },
    Row { name: "mainstay-consensus", may_use: &[], is_pure: true },
    Row { name: "mainstay-guard", may_use: &["mainstay-core"], is_pure: false },
    Row { name: "mainstay-net", may_use: &["mainstay-core"], is_pure: false },
    Row { name: "mainstay-postgres", may_use: &["mainstay-core"], is_pure: false },
    Row { name: "mainstay-pgwire", may_use: &[], is_pure: true },
    Row { name: "mainstay-sql", may_use: &["mainstay-net", "mainstay-pgwire"], is_pure: false },
    Row { name: "mainstay-vip", may_use: &[], is_pure: false },
    Row {
        name: "mainstay-store",
        may_use: &["mainstay-core", "mainstay-consensus", "mainstay-net"],
        is_pure: false,
    },
    Row {
        name: "mainstay-member",
        may_use: &[
            "mainstay-core",
            "mainstay-net",
            "mainstay-store",
            "mainstay-consensus",
            "mainstay-guard",
            "mainstay-postgres",
            "mainstay-vip",
        ],
        is_pure: false,
    },
    Row {
        name: "mainstay",
        may_use: &[
            "mainstay-core",
            "mainstay-consensus",
            "mainstay-guard",
            "mainstay-net",
            "mainstay-postgres",
            "mainstay-store",
            "mainstay-member",
            "mainstay-sql",
            "mainstay-vip",
        ],
        is_pure: false,
    },
    Row { name: "mainstay-sim", may_use: &["mainstay-core", "mainstay-consensus"], is_pure: true },
    Row { name: "mainstay-model", may_use: &["mainstay-core"], is_pure: true },
    Row {
        name: "mainstay-lab",
        may_use: &["mainstay-core", "mainstay-net", "mainstay-pgwire", "mainstay-postgres", "mainstay-vip"],
        is_pure: false,
    },
    Row { name: "xtask", may_use: &[], is_pure: false },
];

/// With one of these a crate is pure no more. `rand` is not among them: a seeded generator is an input.
const IMPURE: &[&str] =
    &["tokio", "nix", "libc", "hyper", "axum", "rustls", "tokio-postgres", "tracing-subscriber"];

/// The table against what `cargo metadata` says.
pub(super) fn check(metadata: &Value) -> Vec<Violation> {
    let root = metadata["workspace_root"].as_str().unwrap_or_default();
    let packages = metadata["packages"].as_array().into_iter().flatten();
    packages.flat_map(|package| check_package(package, root)).collect()
}

fn check_package(package: &Value, root: &str) -> Vec<Violation> {
    let name = package["name"].as_str().unwrap_or_default();
    let manifest = Path::new(package["manifest_path"].as_str().unwrap_or_default());
    let path = manifest.strip_prefix(root).unwrap_or(manifest).display().to_string();
    let Some(row) = CRATES.iter().find(|row| row.name == name) else {
        let what =
            format!("`{name}` is not in the crate table; add it, with what it may use and why it exists");
        return vec![Violation::new(&path, 1, what)];
    };
    let mut violations = Vec::new();
    for dependency in package["dependencies"].as_array().into_iter().flatten() {
        let other = dependency["name"].as_str().unwrap_or_default();
        if !dependency["path"].is_null() && !row.may_use.contains(&other) {
            let what = format!("`{name}` must not depend on `{other}`; dependencies point downward only");
            violations.push(Violation::new(&path, 1, what));
        }
        if row.is_pure && dependency["kind"] != "dev" && IMPURE.contains(&other) {
            let what =
                format!("`{name}` is pure and must not use `{other}`; do it in the crate that calls it");
            violations.push(Violation::new(&path, 1, what));
        }
    }
    violations
}

/// The shipped binary has no `mutants`: `tree` is `cargo tree` of it, a line `NAME VERSION (PATH) FEATURES` each.
pub(super) fn check_shipped(tree: &str) -> Vec<Violation> {
    let mut core = tree.lines().filter(|line| line.starts_with("mainstay-core ")).peekable();
    let what = if core.peek().is_none() {
        "the binary is built without `mainstay-core`, or cargo tree has another form; repair this check"
    } else if core.any(|line| line.split([' ', ',']).any(|feature| feature == "mutants")) {
        "the binary is built with `mutants`; only the simulation and the model check may switch them on"
    } else {
        return Vec::new();
    };
    vec![Violation::new("crates/mainstay/Cargo.toml", 1, what)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn broken(name: &str, dependencies: Value) -> Vec<String> {
        let package = json!({
            "name": name,
            "manifest_path": "/w/crates/x/Cargo.toml",
            "dependencies": dependencies,
        });
        let metadata = json!({ "workspace_root": "/w", "packages": [package] });
        check(&metadata).into_iter().map(|violation| violation.to_string()).collect()
    }

    #[test]
    fn arrows_point_downward() {
        let on = |name: &str, kind: Value| json!([{ "name": name, "path": "/w/crates/y", "kind": kind }]);
        assert!(broken("mainstay-net", on("mainstay-core", Value::Null)).is_empty());
        let found = broken("mainstay-core", on("mainstay-net", json!("dev")));
        assert_eq!(found.len(), 1);
        assert!(found[0].starts_with("crates/x/Cargo.toml:1: `mainstay-core` must not depend"), "{found:?}");
        assert_eq!(broken("mainstay", on("mainstay-sim", Value::Null)).len(), 1);
    }

    #[test]
    fn pure_crates_stay_pure_and_new_ones_are_asked_for() {
        let tokio = |kind: Value| json!([{ "name": "tokio", "path": null, "kind": kind }]);
        assert_eq!(broken("mainstay-core", tokio(Value::Null)).len(), 1);
        assert_eq!(broken("mainstay-core", tokio(json!("dev"))).len(), 0);
        assert_eq!(broken("mainstay-net", tokio(Value::Null)).len(), 0);
        assert_eq!(broken("mainstay-utils", json!([])).len(), 1);
    }

    #[test]
    fn the_table_has_no_cycle() {
        // Each row may use only rows above it.
        for (index, row) in CRATES.iter().enumerate() {
            for used in row.may_use {
                assert!(CRATES[..index].iter().any(|above| above.name == *used), "{} uses {used}", row.name);
            }
        }
    }

    #[test]
    fn mutants_in_the_binary_are_found() {
        assert_eq!(check_shipped("mainstay v1 (/w) \nmainstay-core v1 (/w/core) \n"), []);
        assert_eq!(check_shipped("mainstay v1 (/w) \nmainstay-core v1 (/w/core) a,mutants\n").len(), 1);
        assert_eq!(check_shipped("mainstay-core v1 (/w/core) a (*)\n"), []);
        assert_eq!(check_shipped("error\n").len(), 1);
    }
}
