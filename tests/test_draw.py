"""The square to draw in, in a real browser: what it shows are Python's numbers."""

import base64
import re
import shutil

import jax
import jax.numpy as jnp
import nbformat
import numpy as np
import pytest

playwright_api = pytest.importorskip("playwright.sync_api")

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(not CHROMIUM, reason="needs Chromium: no chromium here")

SIDE = 28
A_4 = [
    [(10, 7), (8.5, 11), (9, 14), (18, 13)],  # (x, y) in pixels
    [(19, 7), (17, 14), (16, 22)],
]


@pytest.fixture(scope="module")
def browser():
    """Chromium, without a window."""
    with playwright_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]
        )
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser):
    """An empty page, 1,100 points wide."""
    context = browser.new_context(viewport={"width": 1100, "height": 900})
    yield context.new_page()
    context.close()


@pytest.fixture
def square(page, html):
    """The square to draw in and what stands beside it, alone on a page."""
    page.set_content(html)
    return in_view(page)


@pytest.fixture
def square_of_report(page, report):
    """The square where the reader finds it."""
    page.goto((report / "bernoulli_em.html").as_uri())
    return in_view(page)


def in_view(page):
    """The square of a page, scrolled to where one can draw in it."""
    found = page.locator(".draw-it-yourself")
    found.scroll_into_view_if_needed()
    return found


@pytest.fixture(scope="module")
def html(report):
    """The HTML that the notebook's cell shows."""
    notebook = nbformat.read(report / "bernoulli_em.ipynb", as_version=4)
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            html = output.get("data", {}).get("text/html", "")
            if "draw-it-yourself" in html:
                return html
    raise LookupError("no cell of the notebook shows a square to draw in")


# What a reader does


def on_screen(square, point):
    """Where a point of the drawing, in pixels of an image, lies in the window."""
    x, y = point
    box = square.locator(".drawing").bounding_box()
    inside = box["width"] - 2  # a border of one point
    left = box["x"] + 1 + inside * x / SIDE
    top = box["y"] + 1 + inside * y / SIDE
    return left, top


def draw(square, strokes):
    """Draw with the mouse."""
    mouse = square.page.mouse
    for first, *others in strokes:
        mouse.move(*on_screen(square, first))
        mouse.down()
        for point in others:
            mouse.move(*on_screen(square, point), steps=5)
        mouse.up()


def clear(square):
    square.get_by_role("button", name="clear").click()


def draw_a_4(square):
    clear(square)
    draw(square, A_4)


def hide_lower_half(square):
    square.get_by_label("hide lower half").check()


def hide_half_of_a_4(square):
    draw_a_4(square)
    hide_lower_half(square)


def leave_it(square):
    """Look at what is there at first."""


# What a reader sees


def drawn(square):
    """The drawing, (n_pixels,) bool."""
    digits = square.get_attribute("data-drawn")
    return np.array(list(digits)) == "1"


def seen(em, square):
    """What the model may see of the drawing: a BinaryData of one row."""
    row = drawn(square)[None]
    if not square.get_by_role("checkbox").is_checked():
        return em.BinaryData(on=row)
    upper_half = np.arange(row.size) < row.size // 2
    return em.BinaryData(on=row & upper_half, off=~row & upper_half)


def mixture_of(em, square):
    """The mixture in the page: weights, and the means' log-odds in ninths."""
    packed_weights = base64.b64decode(square.get_attribute("data-cluster-weights"))
    packed_log_odds = base64.b64decode(square.get_attribute("data-log-odds"))
    weights = np.frombuffer(packed_weights, dtype="<f4")
    ninths = np.frombuffer(packed_log_odds, dtype=np.int8)
    log_odds = ninths.reshape(len(weights), -1).astype(np.float32) / 9
    return em.BernoulliMixture(
        cluster_weights=jnp.asarray(weights), cluster_means=jax.nn.sigmoid(log_odds)
    )


def responsibilities_of(em, square):
    """Python's responsibilities for what is seen, (n_clusters,)."""
    log_joint = em.log_joint_prob(mixture_of(em, square), seen(em, square))
    return np.asarray(jax.nn.softmax(log_joint[0]))


def text_of(square, selector):
    """A text of the page, with Python's minus."""
    return square.locator(selector).text_content().replace("−", "-")


def bars_of(square):
    """The clusters whose bars are shown, and their responsibilities, in order."""
    names = square.locator("li .name").all_text_contents()
    shares = square.locator("li .share").all_text_contents()
    clusters = [int(name.removeprefix("cluster ")) for name in names]
    return clusters, np.array(shares, dtype=float)


def picture_of(canvas):
    """The ink of a canvas, (n_pixels,): 0 is white, 1 black."""
    script = """canvas => {
        const context = canvas.getContext("2d");
        return [...context.getImageData(0, 0, canvas.width, canvas.height).data];
    }"""
    red = np.array(canvas.evaluate(script))[::4]
    return 1 - red / 255


every_drawing = pytest.mark.parametrize(
    "prepare",
    [
        pytest.param(leave_it, id="our 3"),
        pytest.param(hide_lower_half, id="upper half of our 3"),
        pytest.param(draw_a_4, id="a drawn 4"),
        pytest.param(hide_half_of_a_4, id="upper half of a drawn 4"),
        pytest.param(clear, id="an empty square"),
    ],
)


def test_it_begins_with_our_3(square_of_report, mnist):
    _, (test_images, _) = mnist
    np.testing.assert_array_equal(drawn(square_of_report), test_images[5284].ravel())


def test_in_the_report_one_can_draw(square_of_report):
    draw_a_4(square_of_report)
    in_report = drawn(square_of_report)
    assert 30 < in_report.sum() < 200


@every_drawing
def test_its_log_likelihood_is_pythons(em, square, prepare):
    prepare(square)
    (log_p,) = em.log_likelihood(mixture_of(em, square), seen(em, square))
    (shown,) = re.findall(r"= (.*) nats", text_of(square, ".log-p"))
    assert float(shown) == pytest.approx(float(log_p), abs=0.1)


@every_drawing
def test_its_bars_are_pythons_largest_responsibilities(em, square, prepare):
    prepare(square)
    r = responsibilities_of(em, square)
    clusters, shares = bars_of(square)
    np.testing.assert_allclose(shares, r[clusters], atol=0.01)
    np.testing.assert_allclose(shares, np.sort(r)[::-1][:5], atol=0.01)


def test_a_bar_is_as_long_as_its_responsibility(square):
    hide_half_of_a_4(square)
    _, shares = bars_of(square)
    bars = square.locator(".bar").evaluate_all(
        "bars => bars.map(bar => bar.clientWidth / bar.parentElement.clientWidth)"
    )
    np.testing.assert_allclose(bars, shares, atol=0.02)


def test_beside_a_bar_stands_the_prototype_of_its_cluster(em, square):
    means = mixture_of(em, square).cluster_means
    clusters, _ = bars_of(square)
    shown = [picture_of(canvas) for canvas in square.locator("li canvas").all()]
    np.testing.assert_allclose(shown, means[np.array(clusters)], atol=0.005)


def test_the_right_picture_is_what_the_model_expects(em, square):
    draw_a_4(square)
    expected = responsibilities_of(em, square) @ mixture_of(em, square).cluster_means
    shown = picture_of(square.locator(".expected"))
    np.testing.assert_allclose(shown, expected, atol=0.005)


def test_with_the_lower_half_hidden_the_right_picture_is_the_completion(em, square):
    hide_half_of_a_4(square)
    (completed,) = em.complete_images(mixture_of(em, square), seen(em, square))
    shown = picture_of(square.locator(".expected"))
    np.testing.assert_allclose(shown, completed, atol=0.005)


def test_what_is_hidden_changes_no_number(square):
    hide_half_of_a_4(square)
    before = text_of(square, "#in-words")
    draw(square, [[(5, 20), (22, 25)]])
    assert text_of(square, "#in-words") == before


def test_the_left_picture_is_the_drawing(square):
    draw_a_4(square)
    shown = picture_of(square.locator(".drawing"))
    np.testing.assert_array_equal(shown, drawn(square))


def press_mouse(page, kind, point, pointer="mouse"):
    """Send an event of a mouse or a pen: mousePressed, mouseMoved or mouseReleased."""
    x, y = point
    event = {"type": kind, "x": x, "y": y, "button": "left", "clickCount": 1}
    event |= {"buttons": 0 if kind == "mouseReleased" else 1, "pointerType": pointer}
    page.context.new_cdp_session(page).send("Input.dispatchMouseEvent", event)


def stroke_with_mouse(page, points, pointer="mouse"):
    press_mouse(page, "mousePressed", points[0], pointer)
    for point in points[1:]:
        press_mouse(page, "mouseMoved", point, pointer)
    press_mouse(page, "mouseReleased", points[-1], pointer)


def stroke_with_pen(page, points):
    stroke_with_mouse(page, points, "pen")


def stroke_with_finger(page, points):
    session = page.context.new_cdp_session(page)
    kinds = ["touchStart"] + ["touchMove"] * (len(points) - 1)
    for kind, (x, y) in zip(kinds, points, strict=True):
        event = {"type": kind, "touchPoints": [{"x": x, "y": y}]}
        session.send("Input.dispatchTouchEvent", event)
    session.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})


@pytest.mark.parametrize(
    "stroke",
    [
        pytest.param(stroke_with_mouse, id="mouse"),
        pytest.param(stroke_with_pen, id="pen"),
        pytest.param(stroke_with_finger, id="finger"),
    ],
)
def test_a_stroke_is_as_thick_as_mnists(square, stroke):
    clear(square)
    points = [on_screen(square, (14.5, y)) for y in (6.5, 12, 20.5)]
    stroke(square.page, points)
    rows = drawn(square).reshape(SIDE, SIDE)
    expected = np.zeros((SIDE, SIDE), dtype=bool)
    expected[6:21, 13:16] = True  # three pixels wide
    expected[5, 14] = True  # a round tip
    expected[21, 14] = True
    np.testing.assert_array_equal(rows, expected)


def test_the_mouse_draws_only_while_it_is_pressed(square):
    draw_a_4(square)
    before = drawn(square)
    square.page.mouse.move(*on_screen(square, (5, 25)))
    square.page.mouse.move(*on_screen(square, (25, 5)), steps=5)
    np.testing.assert_array_equal(drawn(square), before)


def test_clear_leaves_an_empty_square_to_draw_in(square):
    clear(square)
    assert not drawn(square).any()
    draw(square, A_4)
    assert drawn(square).any()


def test_a_label_says_in_words_what_is_shown(square):
    hide_half_of_a_4(square)
    clusters, shares = bars_of(square)
    bars = [f"cluster {k}: {share:.2f}" for k, share in zip(clusters, shares)]
    words = text_of(square, ".log-p") + "; " + ", ".join(bars)
    assert text_of(square, "[aria-live=polite]") == words


@pytest.mark.parametrize(
    ("role", "name"),
    [
        ("img", "your drawing"),
        ("img", "the model expects"),
        ("button", "clear"),
        ("checkbox", "hide lower half"),
        ("list", "the five prototypes that share the drawing most"),
    ],
)
def test_each_part_has_a_name(square, role, name):
    assert square.get_by_role(role, name=name, exact=True).count() == 1


def test_the_keyboard_reaches_the_drawing(square):
    square.get_by_role("button", name="clear").focus()
    square.page.keyboard.press("Shift+Tab")
    assert square.locator(".drawing:focus").count() == 1


def test_the_keyboard_reaches_the_button(square):
    square.locator(".drawing").focus()
    square.page.keyboard.press("Tab")
    square.page.keyboard.press("Enter")
    assert not drawn(square).any()


def test_the_keyboard_reaches_the_box(square):
    square.get_by_role("button", name="clear").focus()
    square.page.keyboard.press("Tab")
    square.page.keyboard.press("Space")
    assert square.get_by_role("checkbox").is_checked()


@pytest.mark.parametrize("width", [400, 700, 1100])
def test_nothing_sticks_out_of_the_page(square_of_report, width):
    square_of_report.page.set_viewport_size({"width": width, "height": 900})
    ends = square_of_report.locator("canvas, .share, button, label").evaluate_all(
        "parts => parts.map(part => part.getBoundingClientRect().right)"
    )
    assert max(ends) <= width


def test_on_a_phone_the_pictures_stand_side_by_side_and_are_large_enough(
    square_of_report,
):
    square_of_report.page.set_viewport_size({"width": 400, "height": 900})
    drawing = square_of_report.locator(".drawing").bounding_box()
    expected = square_of_report.locator(".expected").bounding_box()
    assert drawing["y"] == expected["y"]
    assert drawing["width"] == expected["width"] > 150


@pytest.mark.parametrize(("used", "other"), [(0, 1), (1, 0)], ids=["first", "second"])
def test_of_two_on_one_page_only_the_one_drawn_in_changes(page, html, used, other):
    page.set_content(html + html)
    squares = page.locator(".draw-it-yourself").all()
    before = drawn(squares[other])
    draw_a_4(squares[used])
    assert (drawn(squares[used]) != before).any()
    np.testing.assert_array_equal(drawn(squares[other]), before)


def test_without_scripts_it_is_a_picture_and_says_where_it_moves(browser, report):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto((report / "bernoulli_em.html").as_uri())
    still = in_view(page)
    assert still.get_by_role("img", name="A square with our 3 in it").is_visible()
    assert still.get_by_text("This is a still picture. To draw,").is_visible()
    context.close()


def test_with_scripts_the_still_picture_is_gone(square):
    assert not square.get_by_text("This is a still picture. To draw,").is_visible()


def test_it_fetches_nothing(page, html):
    addresses = []
    page.on("request", lambda request: addresses.append(request.url))
    page.set_content(html)
    draw_a_4(in_view(page))
    assert [url for url in addresses if not url.startswith("data:")] == []
