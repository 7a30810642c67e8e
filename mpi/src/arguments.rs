//! The command line: the options of `rwkv train`, as `rwkv-train` describes them.

use clap::{Arg, ArgAction, ArgMatches, Command};
use rwkv_train::TrainOptions;
use rwkv_train::options::{DefaultValue, Described, Kind};
use serde_json::{Map, Number, Value};

/// `rwkv-mpi train`, with every option.
pub fn command() -> Command {
    let resume =
        Arg::new("resume").long("resume").value_name("DIR").help("go on with a run from its last checkpoint");
    let json = Arg::new("json").long("json").action(ArgAction::SetTrue).help("print JSON for programs");
    let options = TrainOptions::table().iter().map(argument);
    let train = Command::new("train")
        .about("Train a model on a text, or fine-tune one, on all processes that mpirun started")
        .after_help(
            "Each process learns from its part of every batch: --batch-size is that of all together. Process 0 has the\n\
             run's directory, which is that of `rwkv train`, and either goes on with what the other began. Ctrl-C saves a checkpoint of the\n\
             last step, if mpirun waits for it (it waits a second); `pkill -USR1 mpirun` saves one in any case.\n\n\
             mpirun -n 4 rwkv-mpi train --data book.txt --out runs/book --batch-size 16",
        )
        .arg(resume)
        .args(options)
        .arg(json);
    Command::new("rwkv-mpi")
        .about("Trains RWKV language models on several machines, by MPI")
        .version(env!("CARGO_PKG_VERSION"))
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(train)
}

fn argument(option: &Described) -> Arg {
    let arg = Arg::new(option.name.clone()).long(kebab(&option.name)).help(help(option));
    match option.kind {
        Kind::Boolean => arg.action(ArgAction::SetTrue),
        Kind::Choice(words) => arg.value_name("NAME").value_parser(words.to_vec()),
        Kind::Texts => arg.value_name("PATTERN").action(ArgAction::Append),
        Kind::Paths => arg.value_name("FILE").action(ArgAction::Append),
        Kind::Path => arg.value_name("PATH"),
        Kind::Text => arg.value_name("TEXT"),
        Kind::Count | Kind::Number => arg.value_name("N"),
    }
}

fn help(option: &Described) -> String {
    let doc = option.doc.trim_end_matches('.');
    match &option.default {
        DefaultValue::Value(value) => {
            format!("{doc} [default: {}]", value.as_str().map_or(value.to_string(), str::to_owned))
        }
        DefaultValue::Auto(words) => format!("{doc} [default: {words}]"),
        DefaultValue::Required | DefaultValue::None => doc.to_owned(),
    }
}

fn kebab(name: &str) -> String {
    let mut out = String::new();
    for letter in name.chars() {
        if letter.is_ascii_uppercase() {
            out.push('-');
        }
        out.push(letter.to_ascii_lowercase());
    }
    out
}

/// The options that were given, by their names in camelCase.
///
/// # Errors
/// A sentence that names the option whose value is no number.
pub fn given(matches: &ArgMatches) -> Result<Map<String, Value>, String> {
    let mut all = Map::new();
    for option in TrainOptions::table() {
        let name = &option.name;
        if matches.value_source(name) != Some(clap::parser::ValueSource::CommandLine) {
            continue;
        }
        let texts: Vec<&String> = match option.kind {
            Kind::Boolean => Vec::new(),
            _ => matches.get_many::<String>(name).into_iter().flatten().collect(),
        };
        let first = texts.first().map(|text| text.as_str()).unwrap_or_default();
        let value = match option.kind {
            Kind::Boolean => Value::Bool(true),
            Kind::Texts | Kind::Paths if texts.len() > 1 => texts.into_iter().cloned().collect(),
            Kind::Texts => Value::Array(vec![first.into()]),
            Kind::Path | Kind::Paths | Kind::Text | Kind::Choice(_) => first.into(),
            Kind::Count | Kind::Number => {
                let number: Result<Number, _> = first.parse();
                number.map(Value::Number).map_err(|_| {
                    format!("--{} is {first}; it must be {}", kebab(name), option.kind.expected())
                })?
            }
        };
        all.insert(name.clone(), value);
    }
    Ok(all)
}

/// Where a run goes whose directory is not named: as `rwkv train` has it.
pub fn default_out(data: &Value) -> Option<String> {
    let path = data.as_str().filter(|path| *path != "-" && !path.contains('*'))?;
    Some(format!("runs/{}", std::path::Path::new(path).file_stem()?.to_str()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_option_of_a_run_is_a_flag() {
        command().debug_assert();
        let all = ["rwkv-mpi", "train", "--data", "a", "--data", "b", "--local-steps", "5", "--recompute"];
        let matches = command().try_get_matches_from(all).expect("flags");
        let (_, matches) = matches.subcommand().expect("train");
        let given = given(matches).expect("values");
        assert_eq!(Value::Object(given).to_string(), r#"{"data":["a","b"],"recompute":true,"localSteps":5}"#);
    }
}
