//! `src/train-options.ts` is made of the table of options: the types of TypeScript, with their documentation,
//! and what the command line and the checks of arguments need to know.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use rwkv_train::TrainOptions;
use rwkv_train::options::{DefaultValue, Described, Kind};

/// The formatter's width.
const WIDTH: usize = 110;

#[test]
fn typescript_has_the_options_of_the_table() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../src/train-options.ts");
    let made = module(TrainOptions::table());
    if std::env::var_os("RWKV_UPDATE").is_some() {
        fs::write(&path, &made).expect("src/train-options.ts");
    }
    let there = fs::read_to_string(&path).expect("src/train-options.ts");
    assert!(
        there == made,
        "src/train-options.ts is out of date; to make it anew: \
         RWKV_UPDATE=1 cargo test -p rwkv-train --test typescript"
    );
}

/// The whole file.
fn module(table: &[Described]) -> String {
    let docs = Docs(table);
    let mut out = String::from(
        "// Made of the options in crates/train/src/options/train.rs. To make it anew:\n\
         // RWKV_UPDATE=1 cargo test -p rwkv-train --test typescript\n\n\
         import type { InFiles, Input, Path } from './inputs.js'\n\
         import type { Described } from './kinds.js'\n\n\
         /** Options of a new training run. */\n\
         export interface TrainOptions {\n",
    );
    for option in table {
        docs.comment(&mut out, option);
        let type_of = type_of(option.kind);
        if option.default == DefaultValue::Required {
            let _ = writeln!(out, "  {}: {type_of}", option.name);
        } else {
            // For programs that are compiled with exactOptionalPropertyTypes.
            let _ = writeln!(out, "  {}?: {type_of} | undefined", option.name);
        }
    }
    out += "}\n\n\
            /** What can change when a run goes on from its last checkpoint; what is left out stays as it was. */\n";
    // Also of those that a new run requires, undefined is as good as nothing; and its texts are in files by then.
    out += "export type ResumeOptions = Pick<\n  { [K in keyof TrainOptions]?: InFiles<TrainOptions[K]> | undefined },\n";
    for option in table.iter().filter(|option| option.changes_on_resume) {
        let _ = writeln!(out, "  | '{}'", option.name);
    }
    out += ">\n\n\
            /** What is known of each option. */\n\
            export const trainOptionTable = {\n";
    for option in table {
        entry(&mut out, &option.name, &docs.properties(option));
    }
    out += "} as const satisfies { readonly [K in keyof TrainOptions]-?: Described }\n";
    out
}

/// The documentation of options, in the words of TypeScript.
struct Docs<'a>(&'a [Described]);

impl Docs<'_> {
    /// The comment above a property: documentation, default and range, in lines of the formatter's width.
    fn comment(&self, out: &mut String, option: &Described) {
        let mut text = self.renamed(&option.doc, "`");
        match &option.default {
            DefaultValue::Required => {}
            DefaultValue::None => text += " Default: none.",
            DefaultValue::Auto(words) => {
                let _ = write!(text, " Default: {}.", self.renamed(words, "`"));
            }
            DefaultValue::Value(value) => {
                let _ = write!(text, " Default: {}.", literal(value));
            }
        }
        if let Some(range) = &option.range {
            let _ = write!(text, " Range: {range}.");
        }
        if text.chars().count() + 9 <= WIDTH {
            let _ = writeln!(out, "  /** {text} */");
            return;
        }
        *out += "  /**\n";
        let mut line = String::from("   *");
        for word in text.split(' ') {
            if line.chars().count() + 1 + word.chars().count() > WIDTH {
                let _ = writeln!(out, "{line}");
                line = String::from("   *");
            }
            line = line + " " + word;
        }
        let _ = writeln!(out, "{line}\n   */");
    }

    /// What the table says of an option, as properties of an object.
    fn properties(&self, option: &Described) -> Vec<String> {
        let kind = match option.kind {
            Kind::Path => "path",
            Kind::Text => "text",
            Kind::Texts => "texts",
            Kind::Paths => "paths",
            Kind::Boolean => "boolean",
            Kind::Choice(_) => "choice",
            Kind::Count => "count",
            Kind::Number => "number",
        };
        let mut properties = vec![format!("kind: '{kind}'")];
        if let Kind::Choice(words) = option.kind {
            properties.push(format!("words: [{}]", quoted_all(words, ", ")));
        }
        // The first sentence, as a line of a list.
        let doc = self.renamed(&option.doc, "");
        properties.push(format!("help: {}", quoted(&in_a_list(doc.split(". ").next().unwrap_or(&doc)))));
        match &option.default {
            DefaultValue::Required => properties.push("required: true".to_owned()),
            DefaultValue::None => {}
            DefaultValue::Auto(words) => {
                properties.push(format!("auto: {}", quoted(&self.renamed(words, ""))));
            }
            DefaultValue::Value(value) => properties.push(format!("default: {}", literal(value))),
        }
        if option.changes_on_resume {
            properties.push("changesOnResume: true".to_owned());
        }
        properties
    }

    /// Names of options in backticks, written as in TypeScript.
    fn renamed(&self, text: &str, quote: &str) -> String {
        self.0.iter().fold(text.to_owned(), |text, option| {
            text.replace(&format!("`{}`", option.field), &format!("{quote}{}{quote}", option.name))
        })
    }
}

/// A sentence without its full stop and, unless its first word is a name, its capital letter.
fn in_a_list(sentence: &str) -> String {
    let sentence = sentence.trim_end_matches('.');
    let (first, rest) = sentence.split_at(1);
    let is_name = rest.split(' ').next().is_some_and(|word| word.chars().any(char::is_uppercase));
    if is_name { sentence.to_owned() } else { first.to_lowercase() + rest }
}

fn type_of(kind: Kind) -> String {
    match kind {
        Kind::Path => "Path".to_owned(),
        Kind::Text => "string".to_owned(),
        Kind::Texts => "readonly string[]".to_owned(),
        Kind::Paths => "Input | readonly Input[]".to_owned(),
        Kind::Boolean => "boolean".to_owned(),
        Kind::Count | Kind::Number => "number".to_owned(),
        Kind::Choice(words) => quoted_all(words, " | "),
    }
}

/// One property that is an object: on one line if it fits, as the formatter wants it.
fn entry(out: &mut String, name: &str, properties: &[String]) {
    let line = format!("  {name}: {{ {} }},", properties.join(", "));
    if line.chars().count() <= WIDTH {
        let _ = writeln!(out, "{line}");
        return;
    }
    let _ = writeln!(out, "  {name}: {{");
    for property in properties {
        let _ = writeln!(out, "    {property},");
    }
    *out += "  },\n";
}

fn literal(value: &serde_json::Value) -> String {
    match value {
        serde_json::Value::String(text) => quoted(text),
        serde_json::Value::Array(items) => {
            format!("[{}]", items.iter().map(literal).collect::<Vec<_>>().join(", "))
        }
        // 1.0 is 1 in TypeScript.
        value => value.as_f64().map_or_else(|| value.to_string(), |number| number.to_string()),
    }
}

/// A string in the quotes that the formatter prefers: single ones, unless there are some in it.
fn quoted(text: &str) -> String {
    if text.contains('\'') { format!("\"{text}\"") } else { format!("'{text}'") }
}

fn quoted_all(words: &[&str], between: &str) -> String {
    words.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(between)
}
