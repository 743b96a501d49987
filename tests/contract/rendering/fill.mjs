// Have LHC-Forms render Questionnaires as in a patient's browser, answer them by clicking and typing, and print what it
// makes of it: a line of JSON each. Usage: node fill.mjs lowest|highest FILE...
import fs from 'node:fs';
import path from 'node:path';
import { createRequire } from 'node:module';
import { JSDOM } from 'jsdom';

const [which, ...files] = process.argv.slice(2);
const dist = path.join(path.dirname(createRequire(import.meta.url).resolve('lforms/package.json')), 'dist', 'lforms');
const { window } = new JSDOM('<!doctype html><div id="form"></div>', {
  runScripts: 'outside-only', pretendToBeVisual: true, url: 'http://localhost/',
});
// What a browser has and jsdom has not; nothing of it is looked at here.
const watcher = class { observe() {} unobserve() {} disconnect() {} };
Object.assign(window, { ResizeObserver: watcher, IntersectionObserver: watcher, scrollTo() {},
  matchMedia: () => ({ matches: false, addListener() {}, removeListener() {}, addEventListener() {}, removeEventListener() {} }) });
for (const file of ['assets/lib/zone.min.js', 'runtime.js', 'polyfills.js', 'main.js']) {
  window.eval(fs.readFileSync(path.join(dist, 'webcomponent', file), 'utf8'));
}
window.eval(fs.readFileSync(path.join(dist, 'fhir', 'R4', 'lformsFHIR.min.js'), 'utf8'));
const { Util } = window.LForms;
const form = window.document.getElementById('form');
const pause = (ms) => new Promise((done) => setTimeout(done, ms));
const shown = () => [...form.querySelectorAll('lhc-item')];

async function render(questionnaire) {
  const converted = Util.convertFHIRQuestionnaireToLForms(questionnaire, 'R4');
  const answerLayout = { type: 'RADIO_CHECKBOX', columns: '1' };
  converted.templateOptions = { ...converted.templateOptions, defaultAnswerLayout: { answerLayout } };
  form.replaceChildren();
  await Util.addFormToPage(converted, 'form', { fhirVersion: 'R4', prepopulate: false });
  for (let tries = 0; tries < 100 && shown().length === 0; tries += 1) await pause(50);
  await pause(100);
}

// Answer one item that is shown; tell whether there was something to answer.
function answer(item) {
  const choices = [...item.querySelectorAll('input[type=radio], input[type=checkbox]')];
  if (choices.length > 0) {
    choices.at(which === 'lowest' ? 0 : -1).click();
    return true;
  }
  const field = item.querySelector('input');
  if (field === null) return false;
  const [low, high] = limits[item.id.replace(/^item-/, '').replace(/\/.*$/, '')] ?? [1, 1];
  field.value = String(which === 'lowest' ? low : high);
  for (const name of ['input', 'change', 'blur']) field.dispatchEvent(new window.Event(name, { bubbles: true }));
  return true;
}

let limits = {};
for (const file of files) {
  const questionnaire = JSON.parse(fs.readFileSync(file, 'utf8'));
  const limit = (item, name) => item.extension?.find((one) => one.url.endsWith(name))?.valueInteger;
  limits = Object.fromEntries(questionnaire.item.map((one) => [one.linkId, [limit(one, 'minValue'), limit(one, 'maxValue')]]));
  await render(questionnaire);
  const answered = new Set();
  for (let more = true; more;) { // an answer may bring up further questions
    more = false;
    for (const item of shown()) {
      if (!answered.has(item.id) && answer(item)) {
        answered.add(item.id);
        more = true;
      }
    }
    await pause(50);
  }
  const texts = [...form.querySelectorAll('.question')].map((one) => one.textContent.trim());
  const subject = { resourceType: 'Patient', id: 'ada' };
  const response = Util.getFormFHIRData('QuestionnaireResponse', 'R4', null, { subject });
  console.log(JSON.stringify({ file, texts, problems: Util.checkValidity() ?? [], response }));
}
process.exit(0);
