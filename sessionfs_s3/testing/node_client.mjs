// A plain client of the Node SDK, driven by JSON lines: one object per line on stdin, its answer on stdout.
//   node node_client.mjs <the SDK's module>
//   {"id": 1, "op": "start", "args": {…}, "deadline_s": 30} → {"id": 1, "result": …} or {"id": 1, "error": {"message": …, "code": …}}
// It knows nothing of session file systems. It ends with its stdin; what else it has to say goes to stderr.

import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";

console.log = console.info = console.debug = console.error;

const { approveAll, CopilotClient, RuntimeConnection, ToolSet } = await import(pathToFileURL(process.argv[2]));

let client;
let settings;
const sessions = new Map();
const events = new Map();
const asked = [];
const lifecycle = [];

const LOOKUP = {
    name: "lookup",
    description: "Looks up the value of a key.",
    parameters: { type: "object", properties: { key: { type: "string" } }, required: ["key"] },
    handler: ({ key }, { sessionId }) => {
        asked.push({ sessionId, kind: "tool", detail: key });
        return `node knows ${key}`;
    },
};

function config(tools) {
    return {
        model: settings.model,
        provider: settings.provider,
        availableTools: new ToolSet().addBuiltIn(tools).addCustom("*"),
        tools: [LOOKUP],
        onPermissionRequest: (request, invocation) => {
            asked.push({ sessionId: invocation.sessionId, kind: "permission", detail: request.kind });
            return approveAll(request, invocation);
        },
        onUserInputRequest: (request, { sessionId }) => {
            asked.push({ sessionId, kind: "user input", detail: request.question });
            return { answer: `node says: ${request.question}`, wasFreeform: true };
        },
    };
}

// Events that come before the session is returned are not lost: the SDK is given the listener with the configuration.
function listened(id, tools) {
    events.set(id, []);
    return { ...config(tools), onEvent: (event) => events.get(id).push(event) };
}

function session(id) {
    if (!sessions.has(id)) throw new Error(`session ${id} is not connected on this client`);
    return sessions.get(id);
}

const operations = {
    async start(given) {
        settings = given;
        const connection = RuntimeConnection.forUri(settings.url, { connectionToken: settings.token ?? undefined });
        client = new CopilotClient({ mode: "empty", connection });
        client.onLifecycle((event) => lifecycle.push({ type: event.type, sessionId: event.sessionId }));
        await client.start();
    },
    async create({ sessionId, tools }) {
        sessions.set(sessionId, await client.createSession({ sessionId, ...listened(sessionId, tools) }));
    },
    async resume({ sessionId, tools }) {
        sessions.set(sessionId, await client.resumeSession(sessionId, listened(sessionId, tools)));
    },
    async send({ sessionId, prompt }, deadline_s) {
        return (await session(sessionId).sendAndWait({ prompt }, deadline_s * 1000))?.data.content ?? "";
    },
    events: async ({ sessionId }) => events.get(sessionId) ?? [],
    history: ({ sessionId }) => session(sessionId).getEvents(),
    async disconnect({ sessionId }) {
        await session(sessionId).disconnect();
        sessions.delete(sessionId);
    },
    list: () => client.listSessions(),
    lastId: () => client.getLastSessionId(),
    metadata: ({ sessionId }) => client.getSessionMetadata(sessionId),
    async delete({ sessionId }) {
        await client.deleteSession(sessionId);
        sessions.delete(sessionId);
    },
    async fork({ sessionId, toEventId, name }) {
        const given = { sessionId, toEventId: toEventId ?? undefined, name: name ?? undefined };
        return (await client.rpc.sessions.fork(given)).sessionId;
    },
    lifecycle: async () => lifecycle,
    asked: async () => asked,
    async stop() {
        const errors = (await client?.stop()) ?? [];
        if (errors.length) throw new Error(errors.map((error) => error.message).join("; "));
    },
};

async function answered({ id, op, args, deadline_s }) {
    let answer;
    try {
        answer = { id, result: (await operations[op](args, deadline_s)) ?? null };
    } catch (error) {
        answer = { id, error: { message: String(error?.message ?? error), code: error?.code ?? null } };
    }
    process.stdout.write(`${JSON.stringify(answer)}\n`);
}

const lines = createInterface({ input: process.stdin, crlfDelay: Infinity });
lines.on("line", (line) => void answered(JSON.parse(line)));
lines.on("close", () => process.exit(0));
