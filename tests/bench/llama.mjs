// llama.cpp through node-llama-cpp, as small as its users would write it; `prompt_peers.py` says what JOBS is.
//
// node llama.mjs PACKAGES GGUF THREADS write JOBS OUT             the moments of new tokens
// node llama.mjs PACKAGES GGUF THREADS classify JOBS OUT full|kept  the likelier label of each prompt
// node llama.mjs PACKAGES GGUF THREADS first JOBS                 writes new tokens as they come

import fs from "node:fs";
import {pathToFileURL} from "node:url";

const [packages, gguf, threads, action, jobs, out, mode] = process.argv.slice(2);
const {getLlama, LlamaLogLevel} = await import(
    pathToFileURL(`${packages}/node_modules/node-llama-cpp/dist/index.js`).href
);
const CONTEXT_SIZE = 2048;

async function open() {
    const llama = await getLlama({
        gpu: false, build: "never", logLevel: LlamaLogLevel.error, maxThreads: Number(threads)
    });
    const model = await llama.loadModel({modelPath: gguf});
    const context = await model.createContext({contextSize: CONTEXT_SIZE, threads: Number(threads)});
    return {model, sequence: context.getSequence()};
}

// Seconds from the start to each of the new tokens. The end does not end it.
async function moments(sequence, {ids, new: numNew}) {
    await sequence.clearHistory();
    const started = performance.now();
    const found = [];
    for await (const _ of sequence.evaluate(ids, {temperature: 0, yieldEogToken: true})) {
        found.push((performance.now() - started) / 1000);
        if (found.length === numNew) break;
    }
    return found;
}

// Which of the labels has the highest logit behind each prompt. Kept: only what differs from the one before.
async function classify(sequence, {prompts, labels}) {
    const moments = [performance.now()];
    const answers = [];
    const wanted = {generateNext: {logits: {filter: {tokens: labels}}}};
    for (const ids of prompts) {
        if (mode === "kept") await sequence.adaptStateToTokens(ids.slice(0, -1), false);
        else await sequence.clearHistory();
        const rest = ids.slice(sequence.nextTokenIndex);
        const results = await sequence.controlledEvaluate([...rest.slice(0, -1), [rest.at(-1), wanted]]);
        const logits = labels.map((label) => results.at(-1).next.logits.get(label));
        if (logits.some((logit) => logit === undefined)) throw new Error("a label has no logit");
        answers.push(logits.indexOf(Math.max(...logits)));
        moments.push(performance.now());
    }
    return {answers, moments: moments.map((moment) => moment / 1000)};
}

const {model, sequence} = await open();
const given = JSON.parse(fs.readFileSync(jobs, "utf8"));
if (action === "write") {
    const results = [];
    for (const job of given) results.push(await moments(sequence, job));
    fs.writeFileSync(out, JSON.stringify(results));
} else if (action === "classify") {
    fs.writeFileSync(out, JSON.stringify(await classify(sequence, given)));
} else {
    let left = given.new;
    for await (const token of sequence.evaluate(given.ids, {temperature: 0, yieldEogToken: true})) {
        fs.writeSync(1, model.detokenize([token]));
        if (--left === 0) break;
    }
}
process.exit(0);
