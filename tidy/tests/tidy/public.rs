//! Which other crates a user's program sees through this one.

use std::collections::{BTreeMap, BTreeSet};

use syn::visit::{self, Visit};
use syn::{ImplItem, Item, TraitItem, Visibility};
use tidy::{SOURCES, read, section, table, uses};

#[test]
fn public_dependencies_are_as_documented() {
    let cargo = read("Cargo.toml");
    let crates: BTreeSet<String> =
        section(&cargo, "dependencies").iter().map(|(name, _)| name.replace('-', "_")).collect();
    assert!(crates.len() > 15, "{crates:?}");
    // `unreachable_pub` sees to it that what is `pub` is public.
    let is_type = |token: &str| matches!(token, "struct" | "enum" | "trait" | "type");
    let windows = SOURCES.iter().flat_map(|source| source.tokens.windows(3));
    let public = windows.filter(|w| w[0].text == "pub" && is_type(&w[1].text)).map(|w| w[2].text.clone());
    let public: BTreeSet<String> = public.collect();
    assert!(public.contains("Router") && !public.contains("Acceptor"), "{public:?}");
    let mut shown: BTreeMap<String, String> = BTreeMap::new();
    for source in SOURCES.iter() {
        let file = syn::parse_file(&read(&source.path)).unwrap();
        let is_theirs = |(from, _): &(String, String)| crates.contains(from);
        let names =
            uses(&file, false).into_iter().filter(is_theirs).map(|(from, name)| (name, from)).collect();
        let of = uses(&file, true).into_iter().filter(is_theirs).map(|(from, _)| from).collect();
        let mut found = Shown { crates: &crates, names, public: &public, of };
        found.visit_file(&file);
        for name in found.of {
            shown.entry(name).or_insert_with(|| source.path.display().to_string());
        }
    }
    let rows = table(&read("docs/versions.md"), "| crate | where it shows | with the feature |");
    let documented: BTreeSet<&str> = rows.iter().map(|row| row[0].trim_matches('`')).collect();
    let missing: Vec<_> = shown.iter().filter(|(name, _)| !documented.contains(&***name)).collect();
    assert!(missing.is_empty(), "public, and not in docs/versions.md: {missing:#?}");
    let beyond: Vec<_> = documented.iter().filter(|name| !shown.contains_key(**name)).collect();
    assert!(beyond.is_empty(), "not public: {beyond:?}");
}

fn is_public(vis: &Visibility) -> bool {
    matches!(vis, Visibility::Public(_))
}

/// Visits what is public of a file and notes the crates that it names.
struct Shown<'a> {
    crates: &'a BTreeSet<String>,
    names: BTreeMap<String, String>,
    public: &'a BTreeSet<String>,
    of: BTreeSet<String>,
}

impl Shown<'_> {
    fn crate_of(&self, path: &syn::Path) -> Option<&String> {
        let first = path.segments.first()?.ident.to_string();
        self.names.get(&first).or_else(|| self.crates.get(&first).filter(|_| path.segments.len() > 1))
    }
}

impl<'ast> Visit<'ast> for Shown<'_> {
    fn visit_path(&mut self, path: &'ast syn::Path) {
        self.of.extend(self.crate_of(path).cloned());
        visit::visit_path(self, path);
    }

    fn visit_item(&mut self, item: &'ast Item) {
        match item {
            Item::Fn(item) if is_public(&item.vis) => self.visit_signature(&item.sig),
            Item::Const(item) if is_public(&item.vis) => self.visit_type(&item.ty),
            Item::Type(item) if is_public(&item.vis) => self.visit_type(&item.ty),
            Item::Enum(item) if is_public(&item.vis) => visit::visit_item_enum(self, item),
            Item::Trait(item) if is_public(&item.vis) => visit::visit_item_trait(self, item),
            Item::Struct(item) if is_public(&item.vis) => {
                self.visit_generics(&item.generics);
                item.fields
                    .iter()
                    .filter(|field| is_public(&field.vis))
                    .for_each(|field| self.visit_type(&field.ty));
            }
            Item::Impl(item) => self.visit_item_impl(item),
            _ => {}
        }
    }

    fn visit_item_impl(&mut self, item: &'ast syn::ItemImpl) {
        let syn::Type::Path(of) = &*item.self_ty else { return };
        let is_ours =
            of.path.segments.last().is_some_and(|last| self.public.contains(&last.ident.to_string()));
        let Some((_, of_trait, _)) = &item.trait_ else {
            let functions = item.items.iter().filter_map(|item| match item {
                ImplItem::Fn(item) if is_public(&item.vis) => Some(&item.sig),
                _ => None,
            });
            functions.for_each(|signature| self.visit_signature(signature));
            return;
        };
        // Also what is ours for a type of theirs: `From<Error> for Problem`, or `From<Body> for Bytes`.
        let mut named = Named(BTreeSet::new());
        named.visit_path(of_trait);
        if is_ours || (self.crate_of(&of.path).is_some() && !named.0.is_disjoint(self.public)) {
            self.visit_generics(&item.generics);
            self.visit_path(of_trait);
            self.visit_type(&item.self_ty);
        }
    }

    fn visit_trait_item(&mut self, item: &'ast TraitItem) {
        match item {
            TraitItem::Fn(item) => self.visit_signature(&item.sig),
            item => visit::visit_trait_item(self, item),
        }
    }

    fn visit_attribute(&mut self, _: &'ast syn::Attribute) {}
}

struct Named(BTreeSet<String>);

impl<'ast> Visit<'ast> for Named {
    fn visit_ident(&mut self, ident: &'ast syn::Ident) {
        self.0.insert(ident.to_string());
    }
}
