"""The page in Chromium, in front of a server with the bundled models.

The models run eagerly: this takes less time than to convert them, and gives activation maps.
"""

import base64
import io
import re
import shutil
import wave

import numpy as np
import pytest
from PIL import Image

from tools.benchmark.server_process import ServerProcess
from tools.speech.audio import load

if shutil.which("chromium") is None:
    pytest.skip("left out: no chromium on this machine", allow_module_level=True)
playwright = pytest.importorskip("playwright.sync_api", reason="left out: no playwright")
expect = playwright.expect

SAMPLE = "conformer/pretrained/digits/sample.flac"
TEXT = "ONE SEVEN NINE ZERO"
RATE_HZ = 16000
PHONE = {"width": 360, "height": 740}
PATIENCE_MS = 90_000
expect.set_options(timeout=PATIENCE_MS)


def wav_of(samples):
    """Returns a WAV file of samples from -1 to 1."""
    content = io.BytesIO()
    with wave.open(content, "wb") as file:
        file.setparams((1, 2, RATE_HZ, 0, "NONE", ""))
        file.writeframes((32767 * samples).astype("<i2").tobytes())
    return content.getvalue()


def file_of(name, content, kind):
    return {"name": name, "buffer": content, "mimeType": kind}


@pytest.fixture(scope="module")
def server(project):
    with ServerProcess(project, "--run_eagerly") as process:
        yield process
        process.end()


@pytest.fixture(scope="module")
def browser(project, tmp_path_factory):
    """A browser whose microphone plays the sample once, with half a second of silence around."""
    silence = np.zeros(RATE_HZ // 2)
    said = tmp_path_factory.mktemp("microphone") / "said.wav"
    said.write_bytes(wav_of(np.concatenate([silence, load(project / SAMPLE), silence])))
    arguments = [
        "--no-sandbox",
        "--use-fake-ui-for-media-stream",
        "--use-fake-device-for-media-stream",
        f"--use-file-for-fake-audio-capture={said}%noloop",
        "--autoplay-policy=no-user-gesture-required",
    ]
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=shutil.which("chromium"), args=arguments)
        yield opened
        opened.close()


@pytest.fixture
def open_page(browser, server):
    """Returns a function that opens the page; at the end, it has loaded nothing from elsewhere."""
    contexts, asked, problems = [], [], []

    def start(wait=True, **options):
        context = browser.new_context(**options)
        context.set_default_timeout(PATIENCE_MS)
        contexts.append(context)
        page = context.new_page()
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: problems.append(error))
        page.goto(server.address)
        page.bring_to_front()
        if wait:
            page.get_by_label("Pictures").wait_for()
        return page

    yield start
    for context in contexts:
        context.close()
    assert problems == []
    assert {url for url in asked if not url.startswith((server.address, "blob:"))} == set()


@pytest.fixture
def sample(project):
    return str(project / SAMPLE)


def picture_of(rng, width=320, height=200):
    """Returns a PNG file of colored squares."""
    squares = rng.integers(0, 255, (height // 20, width // 20, 3), dtype=np.uint8)
    content = io.BytesIO()
    Image.fromarray(squares).resize((width, height), Image.NEAREST).save(content, "PNG")
    return content.getvalue()


def pixels(page, canvas):
    """Returns the content of a canvas, `[H, W, 3]`."""
    found = page.locator(canvas).evaluate("canvas => canvas.toDataURL()")
    content = base64.b64decode(found.partition(",")[2])
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB")).astype(int)


def button_of(page, word):
    """Returns the button that plays a word."""
    return page.get_by_role("button", name=re.compile(f"^Play {word}, "))


def start_of(page, word):
    """Returns the start of a word in seconds, as its button names it."""
    name = button_of(page, word).get_attribute("aria-label")
    return float(re.fullmatch(rf"Play {word}, from (\d+\.\d\d) to \d+\.\d\d seconds", name)[1])


def facts(page, section):
    names, values = (
        page.locator(f"{section} .facts {tag}").all_inner_texts() for tag in ("dt", "dd")
    )
    return dict(zip(names, values, strict=True))


def test_a_sound_gives_text_facts_and_words_that_play(open_page, sample):
    page = open_page()
    page.get_by_label("Choose a file").set_input_files(sample)
    expect(page.locator("#text")).to_have_text(TEXT)
    expect(page.get_by_role("status")).to_have_text("Answer for sample.flac")
    told = facts(page, "#speech")
    assert re.fullmatch(r"\d+\.\d\d s", told.pop("Time"))
    assert told == {
        "Model": "conformer, version 1",
        "Runner": "eager, tensorflow",
        "Precision": "fp32",
    }
    page.evaluate("""() => {
        window.places = [];
        for (const name of ["seeked", "pause"]) {
            audio.addEventListener(name, () => places.push([name, audio.currentTime]));
        }
    }""")
    paused = page.evaluate_handle(
        "() => ({done: new Promise(done => audio.addEventListener('pause', () => done(true)))})"
    )
    button_of(page, "SEVEN").click()
    paused.evaluate("paused => paused.done")
    (_, start), (_, end) = page.evaluate("places")[-2:]
    assert start == pytest.approx(start_of(page, "SEVEN"), abs=0.01)
    assert start_of(page, "NINE") <= end < 1.4  # the sound ends at 1.48
    left = page.locator("#playhead").evaluate("line => parseFloat(line.style.left)")
    assert left == pytest.approx(100 * end / 1.48, abs=1)


def test_the_spectrogram_shows_when_and_how_high(open_page):
    page = open_page()
    times = np.arange(RATE_HZ) / RATE_HZ
    tone = np.where(times < 0.5, 0.5 * np.sin(2 * np.pi * 2000 * times), 0)
    page.get_by_label("Choose a file").set_input_files(
        file_of("tone.wav", wav_of(tone), "audio/wav")
    )
    expect(page.locator("#duration")).to_have_text("1.0 s")
    brightness = pixels(page, "#canvas").sum(-1)
    height, width = brightness.shape
    begin, end = brightness[:, : width // 2 - 20], brightness[:, width // 2 + 20 :]
    # 2 kHz of 8 kHz, counted from below.
    assert (abs(begin.argmax(0) - 0.75 * height) <= 2).all()
    assert end.max() == brightness.min()


def test_a_recording_is_sent_as_wav_and_recognized(open_page):
    page = open_page()
    page.evaluate("""() => {
        const make = URL.createObjectURL;
        URL.createObjectURL = file => make.call(URL, window.recorded = file);
    }""")
    page.get_by_role("button", name="Record").click()
    page.get_by_role("button", name="Stop").wait_for()
    expect(page.get_by_role("status")).to_contain_text("Recording")
    expect(page.locator("#seconds")).to_have_text(re.compile(r"^(2\.[2-9]|[3-9]\.|\d\d)"))
    page.get_by_role("button", name="Stop").click()
    expect(page.locator("#text")).to_have_text(TEXT)
    expect(page.get_by_role("button", name="Record")).to_be_visible()
    found = page.evaluate("""() => new Promise(done => {
        const reader = new FileReader();
        reader.onload = () => done(reader.result);
        reader.readAsDataURL(recorded);
    })""")
    assert found.startswith("data:audio/wav;")
    with wave.open(io.BytesIO(base64.b64decode(found.partition(",")[2]))) as file:
        assert (file.getnchannels(), file.getsampwidth()) == (1, 2)
        seconds = file.getnframes() / file.getframerate()
    assert page.locator("#duration").inner_text() == f"{seconds:.1f} s"


def test_a_dropped_picture_gives_classes_and_activation_maps(open_page, rng):
    page = open_page()
    content = base64.b64encode(picture_of(rng)).decode()
    dropped = page.evaluate_handle(
        """text => {
            const bytes = Uint8Array.from(atob(text), letter => letter.charCodeAt(0));
            const transfer = new DataTransfer();
            transfer.items.add(new File([bytes], "squares.png", {type: "image/png"}));
            return transfer;
        }""",
        content,
    )
    page.dispatch_event("#input", "drop", {"dataTransfer": dropped})
    best = page.locator(".class")
    expect(best.first).to_have_attribute("aria-pressed", "true")
    assert best.count() == 5
    percents = [float(x.split()[-2]) for x in best.all_inner_texts()]
    assert percents == sorted(percents, reverse=True) and 0 < sum(percents) <= 100.3
    assert facts(page, "#picture")["Model"] == "photos, version 1"
    convolution = pixels(page, "#image")
    page.get_by_role("radio", name="transformer").check()
    transformer = pixels(page, "#image")
    page.get_by_role("radio", name="none").check()
    plain = pixels(page, "#image")
    # 0.875 of the short side, in the middle; its frame is drawn too.
    left, top, side = 320 / 2 - 87.5, 200 / 2 - 87.5, 175
    rows, columns = np.mgrid[:200, :320]
    inside = (abs(columns - 159.5) < side / 2 - 2) & (abs(rows - 99.5) < side / 2 - 2)
    outside = (columns < left - 2) | (columns > 321 - left) | (rows < top - 2) | (rows > 201 - top)
    for shown in (convolution, transformer):
        assert (shown == plain).all(-1)[outside].all()
        assert (shown != plain).any(-1)[inside].mean() > 0.5
    assert (convolution != transformer).any()
    page.get_by_role("radio", name="transformer").check()
    best.nth(3).click()
    expect(best.nth(3)).to_have_attribute("aria-pressed", "true")
    expect(best.first).to_have_attribute("aria-pressed", "false")
    expect(page.get_by_role("radio", name="transformer")).to_be_checked()
    assert (pixels(page, "#image") != transformer).any()


def test_an_error_is_shown_as_its_line_and_the_next_file_works(open_page, sample):
    page = open_page()
    page.get_by_label("Choose a file").set_input_files(file_of("a.wav", b"text", "audio/wav"))
    alert = page.get_by_role("alert")
    expect(alert).to_contain_text("Expected a readable sound file.")
    assert "\n" not in alert.inner_text()
    expect(page.get_by_role("status")).to_be_empty()
    page.get_by_label("Choose a file").set_input_files(file_of("a.png", b"text", "image/png"))
    expect(alert).to_contain_text("Expected an image.")
    page.get_by_label("Choose a file").set_input_files(sample)
    expect(page.locator("#text")).to_have_text(TEXT)
    expect(alert).to_be_empty()


def test_the_keyboard_alone_is_enough(open_page, sample):
    page = open_page()
    # Before the keys: Chromium may handle a key before a request to report file choosers, and a
    # chooser that is not reported never appears. `expect_file_chooser` sends the request too late.
    page.on("filechooser", lambda chooser: chooser.set_files(sample))
    page.keyboard.press("Tab")
    expect(page.get_by_label("Choose a file")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#text")).to_have_text(TEXT)
    seven = button_of(page, "SEVEN")
    for _ in range(20):
        if seven.evaluate("button => button === document.activeElement"):
            break
        page.keyboard.press("Tab")
    expect(seven).to_be_focused()
    started = page.evaluate_handle(
        "() => ({heard: new Promise(done => audio.addEventListener('play', () => done(true)))})"
    )
    page.keyboard.press("Enter")
    assert started.evaluate("started => started.heard")


def test_a_key_is_asked_for(open_page):
    page = open_page(wait=False)
    page.get_by_label("Pictures").wait_for()
    keys = []

    def check(route):
        keys.append(route.request.headers.get("authorization"))
        if keys[-1] == "Bearer right":
            route.continue_()
        else:
            message = "Expected an API key. Received: another one. Send a key."
            route.fulfill(status=401, json={"error": message})

    page.route("**/v1/models", check)
    page.reload()
    for key in ("wrong", "right"):
        expect(page.get_by_role("alert")).to_have_text(
            "Expected an API key. Received: another one. Send a key."
        )
        expect(page.get_by_label("API key")).to_be_focused()
        page.keyboard.type(key)
        page.keyboard.press("Enter")
    page.get_by_label("Pictures").wait_for()
    assert keys == [None, "Bearer wrong", "Bearer right"]
    expect(page.get_by_label("API key")).to_be_hidden()
    expect(page.get_by_role("alert")).to_be_empty()


def luminance(color):
    """Returns the relative luminance of a color. Source: WCAG 2.2, section 3."""
    values = np.array([int(x) for x in re.findall(r"\d+", color)[:3]]) / 255
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    return linear @ [0.2126, 0.7152, 0.0722]


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_phone_shows_all_of_it_in_both_themes(open_page, sample, rng, theme):
    page = open_page(viewport=PHONE, color_scheme=theme)
    page.get_by_label("Choose a file").set_input_files(sample)
    expect(page.locator("#text")).to_have_text(TEXT)
    width = "document.documentElement.scrollWidth"
    assert page.evaluate(width) == PHONE["width"]
    page.get_by_label("Choose a file").set_input_files(
        file_of("squares.png", picture_of(rng), "image/png")
    )
    expect(page.locator(".class").first).to_have_attribute("aria-pressed", "true")
    assert page.evaluate(width) == PHONE["width"]
    ground = luminance(page.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert (ground > 0.5) == (theme == "light")
    for place, around in (
        ("header p", "body"),
        ("#status", "body"),
        ("#error", "body"),
        ("h2", ".panel"),
        ("dt", ".panel"),
        (".primary", ".primary"),
        (".class[aria-pressed=true]", ".class[aria-pressed=true]"),
    ):
        style = "([text, around]) => [getComputedStyle(document.querySelector(text)).color, "
        style += "getComputedStyle(document.querySelector(around)).backgroundColor]"
        dark, bright = sorted(luminance(color) for color in page.evaluate(style, [place, around]))
        assert (bright + 0.05) / (dark + 0.05) >= 4.5, place  # WCAG 2.2, 1.4.3
