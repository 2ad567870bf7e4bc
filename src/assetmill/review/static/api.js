// Speaking with the server. Every post carries the page's token; errors carry the server's own words.

const csrf = document.querySelector("meta[name=csrf]").content;

export class Refusal extends Error {
  constructor(status, data) {
    super(data.error || `the server answers ${status}`);
    this.status = status;
    this.data = data;
  }
}

async function answer(response) {
  let data;
  try {
    data = await response.json();
  } catch {
    data = {};
  }
  if (!response.ok) throw new Refusal(response.status, data);
  return data;
}

function address(path, query) {
  const parts = new URLSearchParams();
  for (const [name, value] of Object.entries(query)) {
    if (value !== "" && value !== null && value !== undefined && value !== false) parts.set(name, value === true ? "1" : value);
  }
  const text = parts.toString();
  return text ? `${path}?${text}` : path;
}

async function reach(path, options) {
  try {
    return await fetch(path, options);
  } catch {
    throw new Refusal(0, { error: "the server does not answer: is `assetmill review` still running?" });
  }
}

export async function get(path, query = {}) {
  return answer(await reach(address(path, query), { headers: { accept: "application/json" } }));
}

export async function post(path, body, query = {}) {
  const headers = { "content-type": "application/json", "x-csrf-token": csrf };
  return answer(await reach(address(path, query), { method: "POST", headers, body: JSON.stringify(body) }));
}

export async function upload(path, file, query = {}) {
  const headers = { "content-type": file.type || "application/octet-stream", "x-csrf-token": csrf };
  return answer(await reach(address(path, query), { method: "POST", headers, body: file }));
}
