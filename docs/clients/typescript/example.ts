// Registers, logs in, changes the user and logs out, at the server whose URL is the argument.

import createClient from "openapi-fetch";
import type { paths } from "./schema.js";

function expect<T>({ data, error }: { data?: T; error?: unknown }): T {
  if (data === undefined) throw new Error(JSON.stringify(error));
  return data;
}

const baseUrl = process.argv[2];
const name = `guest-${crypto.randomUUID().slice(0, 8)}`;
const password = "correct horse";

const anybody = createClient<paths>({ baseUrl });
const newUser = { username: name, email: `${name}@example.com`, password };
console.log("registered", expect(await anybody.POST("/api/users", { body: newUser })).username);
const Authorization = `Basic ${btoa(`${name}:${password}`)}`;
const token = expect(await anybody.POST("/api/tokens", { headers: { Authorization } }));
console.log("logged in for", token.expires_in, "seconds");

const user = createClient<paths>({ baseUrl, headers: { Authorization: `Bearer ${token.token}` } });
const me = expect(await user.GET("/api/users/me"));
console.log("the token is of", me.username);
const change = { params: { path: { id: me.id } }, body: { about_me: "Hello" } };
console.log("changed", expect(await user.PUT("/api/users/{id}", change))._links.self);
const loggedOut = await user.DELETE("/api/tokens");
if (loggedOut.response.status !== 204) throw new Error("could not log out");
const refused = await user.GET("/api/users/me");
if (refused.response.status !== 401) throw new Error("the token outlived the log out");
console.log("logged out, and the token is refused");
