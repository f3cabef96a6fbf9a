// The API's description, drawn from openapi.json: no other server is asked for anything.

function element(name, text = "", ...children) {
  const made = Object.assign(document.createElement(name), { textContent: text });
  made.append(...children);
  return made;
}

function typeOf(schema) {
  if (schema.anyOf) return schema.anyOf.filter((one) => one.type !== "null").map(typeOf).join(" or ");
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(" | ");
  if (schema.type === "array") return schema.prefixItems ? `[${schema.prefixItems.map(typeOf).join(", ")}]` : `list of ${typeOf(schema.items ?? {})}`;
  return schema.type ?? "anything";
}

function described(schema) {
  return schema.description ?? schema.anyOf?.map((one) => one.description).find(Boolean) ?? "";
}

function table(schema) {
  const rows = Object.entries(schema.properties).map(([name, field]) =>
    element("tr", "",
      element("td", "", element("code", name), element("span", schema.required?.includes(name) ? " needed" : "")),
      element("td", typeOf(field)),
      element("td", field.default === undefined || field.default === null ? "" : JSON.stringify(field.default)),
      element("td", described(field))));
  const head = element("tr", "", ...["field", "type", "default", ""].map((text) => element("th", text)));
  return element("table", "", element("thead", "", head), element("tbody", "", ...rows));
}

const api = await (await fetch("/openapi.json")).json();
document.getElementById("about").textContent = `version ${api.info.version} · ${api.info.description}`;
for (const [path, methods] of Object.entries(api.paths)) {
  for (const [method, operation] of Object.entries(methods)) {
    const section = element("section", "", element("h2", "", element("code", `${method.toUpperCase()} ${path}`)), element("p", operation.summary));
    const schema = operation.requestBody?.content["application/json"]?.schema;
    if (schema) section.append(element("p", "JSON, or multipart/form-data with the same fields and files for images:"), table(schema));
    document.querySelector("main").append(section);
  }
}
