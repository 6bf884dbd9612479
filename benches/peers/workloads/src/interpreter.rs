//! An interpreter of a small language of lists: values are shared, scopes come and go.

use std::hint::black_box;
use std::rc::Rc;

use crate::Part;

/// Numbers are sorted, summed over a list, and counted by two recursions.
const PROGRAM: &str = "
    (let range (fun (from to)
        (if (less from to) (pair from (range (add from 1) to)) ())))
    (let map (fun (f list)
        (if list (pair (f (first list)) (map f (rest list))) ())))
    (let fold (fun (f all list)
        (if list (fold f (f all (first list)) (rest list)) all)))
    (let keep (fun (f list)
        (if list
            (if (f (first list))
                (pair (first list) (keep f (rest list)))
                (keep f (rest list)))
            ())))
    (let join (fun (one two)
        (if one (pair (first one) (join (rest one) two)) two)))
    (let sort (fun (list)
        (if list
            (join (sort (keep (fun (x) (less x (first list))) (rest list)))
                (pair (first list)
                    (sort (keep (fun (x) (less (first list) (add x 1))) (rest list)))))
            ())))
    (let mix (fun (x) (rem (mul x 7919) 1009)))
    (let count (fun (n) (if (less n 2) 1 (add (count (sub n 1)) (count (sub n 2))))))
    (add (count 15)
        (fold (fun (all x) (rem (add (mul all 31) x) 65521)) 0 (sort (map mix (range 0 300)))))
";
/// What the program's last line is worth.
const RESULT: i64 = 56701;

type Builtin = fn(i64, i64) -> i64;

#[derive(Clone)]
enum Value {
    Nothing,
    Number(i64),
    Pair(Rc<(Value, Value)>),
    Function(Rc<Function>),
    Builtin(Builtin),
}

struct Function {
    parameters: Vec<Rc<str>>,
    body: Rc<Code>,
    scope: Option<Rc<Scope>>,
}

/// The names of one call, in the scope where the function was written.
struct Scope {
    names: Vec<(Rc<str>, Value)>,
    outer: Option<Rc<Scope>>,
}

enum Code {
    Number(i64),
    Name(Rc<str>),
    List(Vec<Rc<Code>>),
}

/// The program is parsed and run.
pub(crate) fn interpreter(part: Part) {
    for _ in 0..part.repeats {
        let mut tokens = tokens(PROGRAM).into_iter().peekable();
        let mut interpreter = Interpreter { globals: builtins() };
        let mut last = Value::Nothing;
        while tokens.peek().is_some() {
            last = interpreter.value(&parsed(&mut tokens), None);
        }
        assert!(matches!(last, Value::Number(RESULT)), "the program gives another result");
        black_box(interpreter.globals.len());
    }
}

fn tokens(text: &str) -> Vec<String> {
    let spaced = text.replace('(', " ( ").replace(')', " ) ");
    spaced.split_whitespace().map(str::to_owned).collect()
}

fn parsed(tokens: &mut impl Iterator<Item = String>) -> Rc<Code> {
    fn rest_of_list(tokens: &mut impl Iterator<Item = String>) -> Rc<Code> {
        let mut items = Vec::new();
        loop {
            let token = tokens.next().expect("every list is closed");
            if token == ")" {
                return Rc::new(Code::List(items));
            }
            items.push(one(token, tokens));
        }
    }
    fn one(token: String, tokens: &mut impl Iterator<Item = String>) -> Rc<Code> {
        if token == "(" {
            return rest_of_list(tokens);
        }
        Rc::new(match token.parse() {
            Ok(number) => Code::Number(number),
            Err(_) => Code::Name(token.into()),
        })
    }
    let token = tokens.next().expect("the program goes on");
    one(token, tokens)
}

fn builtins() -> Vec<(Rc<str>, Value)> {
    let all: [(&str, Builtin); 5] = [
        ("add", |a, b| a + b),
        ("sub", |a, b| a - b),
        ("mul", |a, b| a * b),
        ("rem", |a, b| a % b),
        ("less", |a, b| i64::from(a < b)),
    ];
    all.into_iter().map(|(name, call)| (name.into(), Value::Builtin(call))).collect()
}

struct Interpreter {
    globals: Vec<(Rc<str>, Value)>,
}

impl Interpreter {
    fn value(&mut self, code: &Code, scope: Option<&Rc<Scope>>) -> Value {
        match code {
            Code::Number(number) => Value::Number(*number),
            Code::Name(name) => self.named(name, scope),
            Code::List(items) => self.list(items, scope),
        }
    }

    fn named(&self, name: &str, scope: Option<&Rc<Scope>>) -> Value {
        let mut at = scope;
        while let Some(scope) = at {
            if let Some((_, value)) = scope.names.iter().find(|(known, _)| **known == *name) {
                return value.clone();
            }
            at = scope.outer.as_ref();
        }
        let global = self.globals.iter().rev().find(|(known, _)| **known == *name);
        global.unwrap_or_else(|| panic!("nothing is named {name}")).1.clone()
    }

    fn list(&mut self, items: &[Rc<Code>], scope: Option<&Rc<Scope>>) -> Value {
        let Some((head, rest)) = items.split_first() else { return Value::Nothing };
        let Code::Name(name) = &**head else {
            let function = self.value(head, scope);
            return self.called(function, rest, scope);
        };
        match (&**name, rest) {
            ("let", [name, value]) => {
                let Code::Name(name) = &**name else { panic!("`let` takes a name") };
                let value = self.value(value, scope);
                self.globals.push((name.clone(), value));
                Value::Nothing
            }
            ("fun", [parameters, body]) => {
                let Code::List(parameters) = &**parameters else { panic!("`fun` takes a list") };
                let names = parameters.iter().filter_map(|parameter| match &**parameter {
                    Code::Name(name) => Some(name.clone()),
                    _ => None,
                });
                let scope = scope.cloned();
                let parameters = names.collect();
                Value::Function(Rc::new(Function { parameters, body: body.clone(), scope }))
            }
            ("if", [condition, then, otherwise]) => {
                let is_so =
                    !matches!(self.value(condition, scope), Value::Nothing | Value::Number(0));
                self.value(if is_so { then } else { otherwise }, scope)
            }
            ("pair", [first, rest]) => {
                let pair = (self.value(first, scope), self.value(rest, scope));
                Value::Pair(Rc::new(pair))
            }
            ("first" | "rest", [pair]) => match self.value(pair, scope) {
                Value::Pair(pair) if **name == *"first" => pair.0.clone(),
                Value::Pair(pair) => pair.1.clone(),
                _ => panic!("`{name}` takes a pair"),
            },
            _ => {
                let function = self.named(name, scope);
                self.called(function, rest, scope)
            }
        }
    }

    fn called(&mut self, function: Value, arguments: &[Rc<Code>], at: Option<&Rc<Scope>>) -> Value {
        let values: Vec<Value> =
            arguments.iter().map(|argument| self.value(argument, at)).collect();
        match (function, &values[..]) {
            (Value::Builtin(call), [Value::Number(a), Value::Number(b)]) => {
                Value::Number(call(*a, *b))
            }
            (Value::Function(function), _) => {
                let names = function.parameters.iter().cloned().zip(values).collect();
                let scope = Rc::new(Scope { names, outer: function.scope.clone() });
                self.value(&function.body, Some(&scope))
            }
            _ => panic!("what is called is no function, or its arguments are wrong"),
        }
    }
}
