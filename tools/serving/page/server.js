// Requests to the server.

let key = "";

/** An error that the server answered with, in one line. */
export class ServerError extends Error {
  constructor(message, status = 0) {
    super(message);
    this.status = status;
  }
}

/** Sends a request, with a form by POST; returns the answer. */
export async function ask(path, { fields, signal }) {
  const options = { signal, headers: key ? { Authorization: `Bearer ${key}` } : {} };
  if (fields) {
    options.method = "POST";
    options.body = new FormData();
    for (const [name, value] of Object.entries(fields)) options.body.append(name, value);
  }
  const response = await fetch(path, options).catch(() => {
    throw new ServerError("The server does not answer. Check that it runs.");
  });
  const answer = await response.json().catch(() => ({}));
  if (response.ok) return answer;
  const error = answer.error ?? `The server answered with status ${response.status}.`;
  throw new ServerError(error.message ?? error, response.status);
}

/** Asks for an API key; then calls a function, which sends its requests with the key. */
export function keyForm(then) {
  const form = document.getElementById("key-form");
  const field = document.getElementById("key");
  form.hidden = false;
  field.focus();
  form.onsubmit = (event) => {
    event.preventDefault();
    key = field.value;
    field.value = "";
    form.hidden = true;
    then();
  };
}

/** Shows what answered: model, runner, precision and time. */
export function showFacts(list, model, seconds) {
  const { mode, backend, precision } = model.runner;
  const facts = {
    Model: `${model.id}, version ${model.version}`,
    Runner: `${mode}, ${backend}`,
    Precision: precision,
    Time: `${seconds.toFixed(2)} s`,
  };
  list.replaceChildren(
    ...Object.entries(facts).map(([name, value]) => {
      const row = document.createElement("div");
      const term = document.createElement("dt");
      const description = document.createElement("dd");
      term.textContent = name;
      description.textContent = value;
      row.append(term, description);
      return row;
    }),
  );
}
